"""The package zero1: state that goes into an optimizer from elsewhere, and out as a whole."""

import threading

import numpy
import pytest

from python_case import needs_library
import zero1

pytestmark = needs_library

SHAPES = {"weight": (3, 300), "none": (0, 7), "bias": (4,), "mask": (5,)}
STATES = ["master_param", "exp_avg", "exp_avg_sq"]
TRAINABLE = range(3)
FROZEN = 3


def values(dtype) -> list[zero1.Param]:
    made = {name: numpy.arange(numpy.prod(shape, dtype=int)).reshape(shape) / 8 for name, shape in SHAPES.items()}
    stored = {name: array.astype(numpy.float32).view(numpy.uint32) for name, array in made.items()}
    return [zero1.Param(name, SHAPES[name], flags=zero1.FROZEN * (name == "mask"),
                        value=(bits >> 16).astype(numpy.uint16) if dtype == "bf16" else bits.view(numpy.float32))
            for name, bits in stored.items()]


def run(world_size: int, rank_does) -> list:
    """What `rank_does(comm)` returns on each rank, a thread each."""
    comms, returned, raised = zero1.Comm.threads(world_size, timeout_seconds=20), [None] * world_size, []

    def rank(index: int) -> None:
        try:
            returned[index] = rank_does(comms[index])
        except BaseException as problem:
            raised.append(problem)

    threads = [threading.Thread(target=rank, args=(index,)) for index in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]
    return returned


def made(comm: zero1.Comm, dtype: str, **config) -> zero1.Optimizer:
    return zero1.Optimizer(values(dtype), comm=comm, lr=0.01, param_dtype=dtype, grad_scale=1.0, threads=1,
                           bucket_numel=300, **config)


def one_step(opt: zero1.Optimizer, step: int) -> None:
    """The sum over ranks is the same whatever their number: rank 0 has it all."""
    opt.wait_params()
    for grad in opt.grads:
        if grad is not None:
            grad[...] = (opt.rank == 0) * (numpy.arange(grad.size).reshape(grad.shape) % 7 - step)
    opt.grads_ready()
    opt.step()


def bits_of(opt: zero1.Optimizer) -> list[bytes]:
    """Parameters and states. Collective."""
    opt.wait_params()
    return [array.tobytes() for array in opt.params] + [
        opt.get_state(index, state).tobytes() for index in TRAINABLE for state in STATES]


@pytest.mark.parametrize("world_size, later", [(1, 3), (3, 1), (2, 4), (4, 2)])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_training_goes_on_in_another_optimizer_with_the_same_bits(dtype, world_size, later):
    def first(comm: zero1.Comm):
        with made(comm, dtype) as opt:
            for step in range(3):
                one_step(opt, step)
            opt.wait_params()
            params = [array.copy() for array in opt.params]
            states = {(index, state): opt.get_state(index, state) for index in TRAINABLE for state in STATES}
            for step in range(3, 6):
                one_step(opt, step)
            return params, states, bits_of(opt)

    params, states, expected = run(world_size, first)[0]

    def second(comm: zero1.Comm):
        with made(comm, dtype, share_params=False) as opt:
            for index, param in enumerate(params):
                opt.params[index][...] = param
            for (index, state), array in states.items():
                if dtype == "bf16" or state != "master_param":
                    opt.set_state(index, state, array)
            opt.set_count(3)
            opt.params_changed()
            for step in range(3, 6):
                one_step(opt, step)
            assert opt.info().count == opt.info().attempts == 6
            return bits_of(opt)

    assert run(later, second) == [expected] * later


def test_a_state_has_the_shape_of_its_parameter_where_it_is_wanted():
    def rank(comm: zero1.Comm):
        with made(comm, "fp32") as opt:
            weight = numpy.arange(900, dtype=numpy.float32).reshape(3, 300)
            opt.set_state(0, "exp_avg_sq", weight.T.copy().T)  # of any strides
            got = opt.get_state(0, "exp_avg_sq", wanted=comm.rank == 1)
            assert opt.get_state(1, "exp_avg").shape == (0, 7)
            assert (opt.get_state(0, "master_param") == opt.params[0]).all()
            return got

    nothing, got = run(2, rank)
    assert nothing is None and got.dtype == numpy.float32
    assert (got == numpy.arange(900).reshape(3, 300)).all()


def test_what_is_wrong_is_named_and_the_optimizer_goes_on():
    weight, bias = numpy.ones((3, 300), numpy.float32), numpy.ones(4, numpy.float32)

    def rank(comm: zero1.Comm):
        with made(comm, "fp32") as opt:
            for arguments, said in [((0, "exp_avg", weight.astype(float)), "weight.*float64"),
                                    ((0, "exp_avg", bias), "weight.*4.*3, 300"),
                                    ((0, "momentum", weight), "momentum"),
                                    ((0, "param", weight), "neither a master nor a moment"),
                                    ((0, "master_param", weight), "'weight' is its own master"),
                                    ((FROZEN, "exp_avg", numpy.ones(5, numpy.float32)), "'mask' is frozen")]:
                with pytest.raises(zero1.InvalidError, match=said):
                    opt.set_state(*arguments)
            with pytest.raises(zero1.InvalidError, match="'mask' is frozen"):
                opt.get_state(FROZEN, "exp_avg")
            with pytest.raises(zero1.MismatchError, match="ranks 0 and 1 asked for states 2 and 3"):
                opt.get_state(0, STATES[1 + comm.rank])
            with pytest.raises(zero1.InvalidError, match="count is -1"):
                opt.set_count(-1)
            with pytest.raises(zero1.MismatchError, match="count is 7 on rank 0 and 8 on rank 1"):
                opt.set_count(7 + comm.rank)
            opt.grad_ready(2)
            for call in (lambda: opt.set_state(0, "exp_avg", weight), lambda: opt.get_state(0, "exp_avg"),
                         lambda: opt.set_count(1)):
                with pytest.raises(zero1.StateError, match="gradients are on their way"):
                    call()
            opt.drop_grads()
            one_step(opt, 0)
            assert opt.info().count == 1
            opt.check_replicas()

    run(2, rank)
