"""Mistakes while a model trains: the rank that makes one raises, its peers raise with its words, at once; and another
optimizer works."""

import copy
import io
import pickle
import sys

from torch_ranks import bits_of, launch, on_ranks, optimizer_of, raised, torch

import zero1


class Failing(torch.autograd.Function):
    """Raises in backward where it is asked to."""

    @staticmethod
    def forward(ctx, inputs, fails):
        ctx.fails = fails
        return inputs.clone()

    @staticmethod
    def backward(ctx, grad):
        if ctx.fails:
            raise ArithmeticError("backward has failed")
        return grad, None


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.table = torch.nn.Embedding(7, 4)
        self.head = torch.nn.Linear(4, 2)
        self.fails = False

    def forward(self, tokens):
        return self.head(Failing.apply(self.table(tokens), self.fails)).square().sum()


TOKENS = torch.tensor([1, 2, 1])


def train(model, optimizer, mistake=lambda model, optimizer: None) -> None:
    """The mistake comes between backward and step."""
    for step in range(2):
        model(TOKENS).backward()
        if step:
            mistake(model, optimizer)
        optimizer.step()
        optimizer.info()


def assert_a_new_one_works(comm, model) -> None:
    with optimizer_of(model.named_parameters(), comm) as optimizer:
        train(model, optimizer)
        optimizer.core.check_replicas()


# ---- that end the optimizer ----


def sparse(model, optimizer):
    model.table.sparse = True
    optimizer.zero_grad()
    model(TOKENS).backward()


def other_memory(model, optimizer):
    model.head.weight.data = model.head.weight.data.clone()


def other_dtype(model, optimizer):
    model.to(torch.bfloat16)


def backward_twice(model, optimizer):
    model(TOKENS).backward()


def clipped_by_torch(model, optimizer):
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)


def clipped_twice(model, optimizer):
    optimizer.clip_grad_norm(1.0)
    optimizer.clip_grad_norm(1.0)


def other_norm(model, optimizer):
    optimizer.clip_grad_norm(1.0, norm_type=1)


def bound_of_zero(model, optimizer):
    optimizer.clip_grad_norm(0.0)


def bad_rate(model, optimizer):
    optimizer.param_groups[0]["lr"] = "fast"


def negative_rate(model, optimizer):
    optimizer.param_groups[0]["lr"] = -1.0


def failing_backward(model, optimizer):
    model.fails = True
    optimizer.zero_grad()
    model(TOKENS).backward()


MISTAKES = [(sparse, zero1.InvalidError, "table.weight.*sparse"),
            (other_memory, zero1.StateError, "head.weight.*memory"),
            (other_dtype, zero1.StateError, "table.weight.*memory"),
            (backward_twice, zero1.StateError, "handed over already.*no_sync"),
            (clipped_by_torch, zero1.StateError, "clip_grad_norm"), (clipped_twice, zero1.StateError, "twice"),
            (other_norm, zero1.UnsupportedError, "norm_type is 1"), (bound_of_zero, zero1.InvalidError, "max_norm"),
            (bad_rate, zero1.InvalidError, "fast"), (negative_rate, zero1.InvalidError, "lr"),
            (failing_backward, ArithmeticError, "backward has failed")]


def others_see(mistake, optimizer) -> None:
    """What is collective in it, which the peers do, too."""
    if mistake in (sparse, failing_backward):
        optimizer.zero_grad()
    if mistake == clipped_twice:
        optimizer.clip_grad_norm(1.0)


@on_ranks(1, 2, 3)
def test_a_mistake_is_raised_on_every_rank(comm, folder):
    for mistake, error, text in MISTAKES:
        model, mine = Model(), comm.rank == comm.world_size - 1
        with raised(error, text, mine) as caught, optimizer_of(model.named_parameters(), comm) as optimizer:
            train(model, optimizer, mistake if mine else lambda _, one: others_see(mistake, one))
        if not mine:
            assert isinstance(caught.value, zero1.AbortedError) and f"rank {comm.world_size - 1}" in str(caught.value)
        assert optimizer.closed
        model.fails, model.table.sparse = False, False
        assert_a_new_one_works(comm, model.to(torch.float32))


@on_ranks(1, 2, 3)
def test_a_mistake_without_with_is_raised_on_every_rank_too(comm, folder):
    """And what is dropped afterwards leaves the next one alone."""
    for mistake, error, text in MISTAKES[:-1]:  # who catches an exception of backward, without `with`, calls abort
        model, mine = Model(), comm.rank == comm.world_size - 1
        optimizer = optimizer_of(model.named_parameters(), comm)
        with raised(error, text, mine):
            train(model, optimizer, mistake if mine else lambda _, one: others_see(mistake, one))
        if comm.world_size > 1:
            with raised(zero1.Error, "."):
                model(TOKENS).backward()
                optimizer.step()
                optimizer.info()
        del optimizer
        model.table.sparse = False
        assert_a_new_one_works(comm, model.to(torch.float32))


@on_ranks(2, 3)
def test_the_hook_of_uncaught_exceptions_tells_the_peers(comm, folder):
    model, fails = Model(), comm.rank == 1
    model.fails = fails
    optimizer = optimizer_of(model.named_parameters(), comm)
    if fails:
        try:
            model(TOKENS).backward()
        except ArithmeticError:
            sys.excepthook(*sys.exc_info())
    else:
        with raised(zero1.AbortedError, "rank 1.*ArithmeticError: backward has failed"):
            train(model, optimizer)
    optimizer.close()


def uncaught(comm, folder):
    """Alone in its launch: rank 1's program ends with an exception, and rank 0 says what it was told."""
    model = Model()
    optimizer = optimizer_of(model.named_parameters(), comm)
    model(TOKENS).backward()
    if comm.rank == 1:
        raise ArithmeticError("rank 1 has failed")
    with raised(zero1.AbortedError, "rank 1 has failed"):
        optimizer.step()
        optimizer.info()
    (folder / "told").touch()


def test_a_program_that_ends_with_an_exception_leaves_no_rank_waiting(tmp_path):
    ended = launch("mpirun", 2, tmp_path, [[__name__, "uncaught"]], keep_going=True)
    assert "ArithmeticError: rank 1 has failed" in ended.stderr
    assert "Segmentation" not in ended.stderr and "core dumped" not in ended.stderr
    assert (tmp_path / "uncaught" / "told").exists(), ended.stderr


# ---- that leave it as it was ----


@on_ranks(1, 2)
def test_what_cannot_be_done_leaves_the_optimizer_as_it_was(comm, folder):
    model = Model()
    with optimizer_of(model.named_parameters(), comm) as optimizer:
        train(model, optimizer)
        with raised(zero1.UnsupportedError, "fixed"):
            optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(3))]})
        for copied in (lambda: pickle.dumps(optimizer), lambda: copy.deepcopy(optimizer), lambda: copy.copy(optimizer),
                       lambda: torch.save(optimizer, io.BytesIO())):
            with raised(zero1.UnsupportedError, "pickled or copied"):
                copied()
        with raised(zero1.StateError, "no save|none has ended|report|save"):
            optimizer.report()
        assert len(optimizer.param_groups) == 1
        train(model, optimizer)
        optimizer.core.check_replicas()
        assert optimizer.info().count == 4


@on_ranks(1, 2)
def test_after_close_every_call_raises_and_the_model_works(comm, folder):
    model = Model()
    optimizer = optimizer_of(model.named_parameters(), comm, overlap_forward=True, module=model)
    train(model, optimizer)
    optimizer.close()
    optimizer.close()
    assert optimizer.closed and "lr: 0.001" in repr(optimizer)
    model(TOKENS).backward()
    for use in (optimizer.step, optimizer.info, lambda: optimizer.clip_grad_norm(1.0), optimizer.params_changed,
                optimizer.sync_params, optimizer.memory, lambda: optimizer.save(folder), optimizer.state_dict,
                lambda: optimizer.load(folder), optimizer.abort,
                lambda: optimizer.load_state_dict(torch.optim.AdamW(model.parameters()).state_dict()),
                optimizer.consolidate_state_dict, optimizer.wait, optimizer.poll):
        with raised(zero1.StateError, "closed"):
            use()
    before = bits_of(model.parameters())
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert bits_of(model.parameters()) != before
    assert_a_new_one_works(comm, model)
