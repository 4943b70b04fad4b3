"""A program for mpirun: python_ranks.py SCENARIO FOLDER, for tests/test_python_ranks.py. Each rank prints one
line at its end, or fails."""

import hashlib
import os
import sys
import time

import numpy

from python_resources import resources
import zero1

scenario, folder = sys.argv[1:]
if scenario.startswith("mpi4py"):
    from mpi4py import MPI  # starts MPI, and ends it

    comm = zero1.Comm.from_mpi4py(MPI.COMM_WORLD, timeout_seconds=20)
else:
    comm = zero1.Comm.world(timeout_seconds=20)


def made(**config) -> zero1.Optimizer:
    """Each rank gives other values: rank 0's hold."""
    params = {"weight": numpy.full((3, 300), comm.rank + 1, numpy.float32), "bias": numpy.zeros(4, numpy.float32)}
    return zero1.Optimizer(params, comm=comm, lr=0.5, weight_decay=0.0, threads=1, **config)


def one_step(opt: zero1.Optimizer, step: int) -> None:
    """The sum over ranks is the same whatever their number: 12 shared out."""
    opt.wait_params()
    opt.grads["weight"] = numpy.full((3, 300), 12 * step / comm.world_size, numpy.float32)
    opt.grads["bias"] = numpy.full(4, -12 / comm.world_size, numpy.float32)
    opt.grads_ready()
    opt.step()


def said(expected: type[zero1.Error], call) -> str:
    """The text of the exception that `call` raises, which is `expected`."""
    try:
        call()
    except expected as error:
        return str(error)
    raise SystemExit(f"rank {comm.rank}: no {expected.__name__}")


def hash_of(opt: zero1.Optimizer) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in opt.params)).hexdigest()


def trains() -> str:
    with made(grad_scale=1.0) as opt:
        for step in (1, 2, 3):
            one_step(opt, step)
        opt.check_replicas()
        info = opt.info()
        owned = sum(part.end - part.begin for part in opt.owned())
        return f"count {info.count} norm {info.grad_norm!r} params {hash_of(opt)} owned {owned}"


def saves() -> str:
    with made(grad_scale=1.0) as opt:
        one_step(opt, 1)
        opt.save(folder, rank_metadata={"rank": str(comm.rank)})
        one_step(opt, 2)
        opt.wait_params()
        return "params " + hash_of(opt)


def resumes() -> str:
    with made(grad_scale=1.0) as opt:
        opt.load(folder)
        opt.set_grad_scale(1.0)  # loaded for an average over other ranks; ours add up to the same
        one_step(opt, 2)
        opt.wait_params()
        return "params " + hash_of(opt)


def lists_that_differ() -> str:
    params = {"weight": (3, 4), "bias": (4 + (comm.rank == 1),)}
    text = said(zero1.MismatchError, lambda: zero1.Optimizer(params, comm=comm))
    assert "bias" in text, text
    with made() as opt:  # the communicator is as good as before
        one_step(opt, 1)
        return f"count {opt.info().count}"


def bad_argument_on_one_rank() -> str:
    values = numpy.ones(4, numpy.float64 if comm.rank == 1 else numpy.float32)
    text = said(zero1.InvalidError, lambda: zero1.Optimizer({"bias": values}, comm=comm))
    assert ("float64" in text) == (comm.rank == 1), text
    text = said(zero1.InvalidError,
                lambda: zero1.Optimizer({"bias": (4,)}, comm=comm, **({"nothing": 1} if comm.rank == 1 else {})))
    assert ("nothing" in text) == (comm.rank == 1), text
    with made() as opt:
        one_step(opt, 1)
        return f"count {opt.info().count}"


def exception_within_a_step() -> str:
    """Rank 1 fails in backward: its peers raise with its words, at once."""
    start = time.monotonic()

    def run() -> None:
        with made() as opt:
            one_step(opt, 1)
            opt.wait_params()
            opt.grad_ready(1)
            if comm.rank == 1:
                raise ArithmeticError("backward of rank 1 failed")
            opt.grad_ready(0)
            opt.step()
            opt.info()

    if comm.rank == 1:
        try:
            run()
        except ArithmeticError:
            return "raised"
        raise SystemExit("rank 1: no ArithmeticError")
    text = said(zero1.AbortedError, run)
    assert "backward of rank 1 failed" in text, text
    assert time.monotonic() - start < 10
    return "raised"


def exception_that_nothing_catches() -> str:
    """No `with` and no `except` on rank 1: the end of its interpreter is enough for its peers to raise."""
    global opt
    opt = made()
    opt.grad_ready(1)
    if comm.rank == 1:
        raise ArithmeticError("rank 1 ends")
    opt.grad_ready(0)

    def finish() -> None:
        opt.step()
        opt.info()

    said(zero1.Error, finish)
    return "raised"


def without_mpi() -> str:
    """The ranks are introduced to each other by files, and train over that."""
    global comm
    calls = [0]

    def gather(data: bytes) -> list[bytes]:
        calls[0] += 1
        names = [os.path.join(folder, f"{calls[0]}-{rank}") for rank in range(comm.world_size)]
        with open(names[comm.rank] + ".part", "wb") as out:
            out.write(data)
        os.rename(names[comm.rank] + ".part", names[comm.rank])
        while not all(map(os.path.exists, names)):
            time.sleep(0.01)
        return [open(name, "rb").read() for name in names]

    comm = zero1.Comm.from_allgather(comm.rank, comm.world_size, gather)
    return trains()


def bad_number_on_one_rank() -> str:
    """What does not fit a number of C, and is refused before it gets there, is no reason for peers to wait."""
    wrong = comm.rank == 1
    with made() as opt:
        opt.save(folder)
        for call in (lambda: opt.sync_params(2**40 if wrong else 0),
                     lambda: opt.save(folder, keep_last=2**70 if wrong else 1),
                     lambda: opt.save(folder, metadata={"epoch": 3 if wrong else "3"}),
                     lambda: opt.save_async(folder, mode="later" if wrong else "pinned"),
                     lambda: opt.save(folder + "\0" if wrong else folder),
                     lambda: opt.load(folder, allow_extra="a\0b" if wrong else None),
                     lambda: opt.load(3 if wrong else folder),
                     lambda: opt.set_count(2**64 if wrong else 1),
                     lambda: opt.get_state(2**64 if wrong else 0, "exp_avg"),
                     lambda: opt.get_state(7 if wrong else 0, "exp_avg"),
                     lambda: opt.get_state(0, "none" if wrong else "exp_avg")):
            said(zero1.InvalidError, call)
        one_step(opt, 1)
        return f"count {opt.info().count}"


def drops() -> str:
    """Communicators and optimizers that nobody closes."""
    def drop() -> None:
        opt = zero1.Optimizer({"large": numpy.ones(64 * 1024, numpy.float32)},
                              comm=zero1.Comm.world(timeout_seconds=20), threads=1)
        opt.wait_params()
        opt.grads_ready()
        opt.step()
        opt.info()

    for _ in range(5):
        drop()
    comm.barrier()
    before = resources()
    for _ in range(60):
        drop()
    comm.barrier()
    after = resources()
    assert after[0] - before[0] < 16 << 20 and after[1:] == before[1:], (before, after)
    return "nothing is left"


def forks() -> str:
    """A child that ends as programs do, finalizers and all, and one that an exception ends, are not the rank."""
    with made(grad_scale=1.0) as opt:
        one_step(opt, 1)
        for fails in (False, True):
            child = os.fork()
            if not child:
                if fails:
                    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                    raise RuntimeError("a child's own trouble")
                sys.exit(0)
            assert os.waitpid(child, 0)[1] >> 8 == fails
        for step in (2, 3):
            one_step(opt, step)
        return f"count {opt.info().count} params {hash_of(opt)}"


def mpi4py_trains() -> str:
    """Beside mpi4py's own messages; and Comm.world takes the MPI that mpi4py has started."""
    result = trains()
    assert MPI.COMM_WORLD.allreduce(comm.rank) == sum(range(comm.world_size))
    with zero1.Comm.world() as world:
        assert (world.rank, world.world_size) == (MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size)
    return result


def later_with_mpi4py() -> str:
    """mpi4py finds MPI started by Comm.world, and leaves the end to it."""
    global MPI, comm
    from mpi4py import MPI

    comm = zero1.Comm.from_mpi4py(MPI.COMM_WORLD, timeout_seconds=20)
    return mpi4py_trains()


def mpi4py_splits() -> str:
    """Ranks 0 and 2 train together, in reverse order, and rank 1 alone: as many bits as on the world."""
    global comm
    world = comm
    part = MPI.COMM_WORLD.Split(world.rank % 2, -world.rank)
    with zero1.Comm.from_mpi4py(part, timeout_seconds=20) as comm:
        part.Free()  # it was duplicated
        return f"{comm.rank} of {comm.world_size}: {trains()}"


rank = comm.rank
sys.stdout.write(f"rank {rank}: {globals()[scenario]()}\n")
