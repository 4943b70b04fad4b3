"""What no optimizer is made of: an exception on every rank, at once, and the next one is made as if nothing were."""

import functools

from torch_ranks import on_ranks, optimizer_of, raised, torch

import zero1


def parameter(*shape: int, dtype=torch.float32, **options):
    return torch.nn.Parameter(torch.ones(*shape, dtype=dtype), **options)


def good() -> list:
    return [("first", parameter(4, 3)), ("second", parameter(5))]


def overlapping() -> list:
    memory = torch.ones(10)
    return [("first", torch.nn.Parameter(memory[:6].view(2, 3))), ("second", torch.nn.Parameter(memory[5:]))]


def twice() -> list:
    tensor = parameter(3)
    return [{"params": [("first", tensor)]}, {"params": [("second", tensor)]}]


def ending():
    yield "first", parameter(4, 3)
    raise ArithmeticError("the list has ended early")


#: Parameters, arguments, what the rank that has them raises, what its text says.
BAD = [
    (lambda: [("first", parameter(3, dtype=torch.float64))], {}, zero1.InvalidError,
     "first.*float64.*float32 or bfloat16"),
    (lambda: [("first", parameter(3, dtype=torch.float16))], {}, zero1.InvalidError, "first.*float16"),
    (lambda: good() + [("third", parameter(3, dtype=torch.bfloat16))], {}, zero1.InvalidError,
     "third.*bfloat16.*first.*float32"),
    (lambda: [("first", torch.nn.Parameter(torch.ones(4, 3).T))], {}, zero1.InvalidError, "first.*not contiguous"),
    (lambda: [("first", torch.nn.Parameter(torch.ones(6)[::2]))], {}, zero1.InvalidError, "first.*not contiguous"),
    (lambda: [("first", torch.nn.Parameter(torch.ones(3, 3).to_sparse()))], {}, zero1.InvalidError, "first.*sparse"),
    (lambda: [("first", torch.nn.Parameter(torch.ones(3, device="meta")))], {}, zero1.InvalidError, "first.*meta"),
    (overlapping, {}, zero1.InvalidError, "first.*second.*share memory"),
    (twice, {}, ValueError, "more than one parameter group"),
    (list, {}, ValueError, "empty parameter list"),
    (lambda: [3], {}, TypeError, "int"),
    (lambda: parameter(3), {}, TypeError, "params"),
    (lambda: [("first", parameter(3)), parameter(3)], {}, ValueError, "names"),
    (lambda: [()], {}, (TypeError, ValueError, IndexError), "."),
    (ending, {}, ArithmeticError, "ended early"),
    (good, {"lr": -1.0}, zero1.InvalidError, "lr"),
    (good, {"lr": "fast"}, zero1.InvalidError, "lr"),
    (good, {"betas": 3}, zero1.InvalidError, "betas"),
    (good, {"betas": (0.9, 1.0)}, zero1.InvalidError, "beta2"),
    (lambda: [{"params": good(), "lr": "fast"}], {}, zero1.InvalidError, "lr"),
    (lambda: [{"params": good(), "betas": None}], {}, zero1.InvalidError, "betas"),
    (good, {"no_such": 1}, zero1.InvalidError, "no_such"),
    (good, {"bucket_numel": -1}, zero1.InvalidError, "bucket_numel"),
    (good, {"bucket_numel": "many"}, zero1.InvalidError, "bucket_numel"),
    (good, {"max_grad_norm": "small"}, ValueError, "small"),
    (good, {"grad_dtype": torch.float64}, zero1.InvalidError, "grad_dtype.*float64"),
    (good, {"overlap_forward": True}, zero1.InvalidError, "module"),
    (good, {"module": torch.nn.Linear(2, 2)}, zero1.InvalidError, "first.*none of the module's"),
]


def assert_trains(comm) -> None:
    params = good()
    with optimizer_of(params, comm) as optimizer:
        params[0][1].sum().backward()
        optimizer.step()
        assert optimizer.info().count == 1


@on_ranks(1, 2, 3)
def test_what_is_wrong_on_one_rank_is_raised_on_all(comm, folder):
    for make, arguments, error, text in BAD:
        for mine in (comm.rank == comm.world_size - 1, True):
            with raised(error, text, mine):
                optimizer_of(make() if mine else good(), comm, **(arguments if mine else {}))
    assert_trains(comm)


#: Lists that are fine by themselves and differ from the others'.
OTHERS = [
    (lambda: good()[::-1], {}, "first.*second|second.*first"),
    (lambda: good()[:1], {}, "second.*no parameter"),
    (lambda: [("first", parameter(3, 4)), ("second", parameter(5))], {}, "first"),
    (lambda: [("first", parameter(4, 3)), ("other", parameter(5))], {}, "second|other"),
    (lambda: [("first", parameter(4, 3)), ("second", parameter(5, requires_grad=False))], {}, "second"),
    (lambda: [{"params": [entry]} for entry in good()], {}, "group"),
    (lambda: [(name, torch.nn.Parameter(tensor.detach().bfloat16())) for name, tensor in good()], {}, "param_dtype"),
    (good, {"lr": 0.5}, "lr"),
    (good, {"overlap": False}, "overlap"),
    (good, {"share_params": True}, "share_params"),
    (good, {"max_grad_norm": 1.0}, "max_grad_norm"),
]


@on_ranks(2, 3)
def test_lists_that_differ_between_ranks_are_a_mismatch(comm, folder):
    for make, arguments, text in OTHERS:
        differs = comm.rank == comm.world_size - 1
        with raised(zero1.MismatchError, text):
            optimizer_of(make() if differs else good(), comm, **(arguments if differs else {}))
    assert_trains(comm)


@on_ranks(1, 2)
def test_a_communicator_that_is_none_is_told(comm, folder):
    with raised(zero1.InvalidError, "comm is a int"):
        optimizer_of(good(), 3)
    closed = zero1.Comm.self()
    closed.close()
    with raised(zero1.StateError, "closed"):
        optimizer_of(good(), closed)


# ---- ranks that the program does not give ----


def test_a_process_alone_is_one_rank(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with zero1.torch.DistributedOptimizer(good(), threads=1) as optimizer:
        assert (optimizer.rank, optimizer.world_size) == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "1")
    with zero1.torch.DistributedOptimizer(good(), threads=1) as optimizer:
        assert optimizer.world_size == 1


def test_torchrun_without_torch_distributed_is_told(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with raised(zero1.StateError, "WORLD_SIZE is 2.*init_process_group"):
        zero1.torch.DistributedOptimizer(good())


@on_ranks(2)
def test_mpirun_is_found(comm, folder):
    with optimizer_of(good(), None) as optimizer:
        assert (optimizer.rank, optimizer.world_size) == (comm.rank, comm.world_size)


@on_ranks(2, 3, launcher="torchrun")
def test_errors_reach_every_rank_of_torchrun(comm, folder):
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    for make, arguments, error, text in BAD[::4]:
        mine = rank == world_size - 1
        with raised(error, text, mine):
            optimizer_of(make() if mine else good(), comm, **(arguments if mine else {}))
    assert_trains(comm)


@on_ranks(2, 3, launcher="torchrun")
def test_a_process_group_is_taken(comm, folder):
    rank = torch.distributed.get_rank()
    group = torch.distributed.new_group([0])
    if rank == 0:
        with optimizer_of(good(), None, process_group=group) as optimizer:
            assert (optimizer.rank, optimizer.world_size) == (0, 1)
    else:
        with raised(zero1.StateError, "not in process_group"):
            optimizer_of(good(), None, process_group=group)


@on_ranks(2, launcher="torchrun")
def test_several_machines_without_mpi_are_refused_with_what_to_use(comm, folder):
    whole = zero1.Comm.from_allgather
    zero1.Comm.from_allgather = functools.partial(whole, ranks_per_node=1)  # each counts as a machine
    try:
        with raised(zero1.UnsupportedError, "mpirun.*from_mpi4py"):
            optimizer_of(good(), None)
    finally:
        zero1.Comm.from_allgather = whole
