"""Optimizers that are made and dropped leave nothing behind, and models that go on."""

import gc
import weakref

from python_resources import resources
from torch_ranks import bits_of, on_ranks, optimizer_of, raised, torch

import zero1

LARGE = 1024 * 256  # elements: a MiB


def made_model():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(LARGE // 4, 4, bias=False), torch.nn.Tanh(), torch.nn.Linear(4, 3))


def step(model, optimizer) -> None:
    model(torch.ones(1, LARGE // 4)).sum().backward()
    optimizer.step()


def assert_constant(once, times: int = 12) -> None:
    """Each call of `once` takes 4 MiB and more, which would add up."""
    for _ in range(5):
        once()
    before = resources()
    for _ in range(times):
        once()
    after = resources()
    assert after[0] - before[0] < 24 << 20 and after[1] == before[1]


@on_ranks(1, 2)
def test_optimizers_that_are_closed_leave_nothing(comm, folder):
    model = made_model()
    for options in ({}, {"overlap_forward": True, "module": model, "share_params": True}):
        def once():
            with optimizer_of(model.named_parameters(), comm, **options) as optimizer:
                step(model, optimizer)

        assert_constant(once)


@on_ranks(1, 2)
def test_optimizers_that_are_dropped_leave_nothing(comm, folder):
    """With their models, or while these live on and get another."""
    lasting = made_model()
    for model, forward in ((None, False), (lasting, True)):
        def once():
            one = model or made_model()
            optimizer = optimizer_of(one.named_parameters(), comm, overlap_forward=forward, module=one)
            step(one, optimizer)
            step(one, optimizer)
            optimizer.wait_params()
            comm.barrier()

        assert_constant(once)


@on_ranks(1)
def test_failed_ones_leave_nothing(comm, folder):
    params = [torch.nn.Parameter(torch.ones(LARGE)), torch.nn.Parameter(torch.ones(3, dtype=torch.float64))]

    def once():
        with raised(zero1.InvalidError, "float64"):
            optimizer_of(params, comm)

    assert_constant(once)


@on_ranks(1)
def test_what_is_dropped_goes_at_once(comm, folder):
    """No cycle keeps it, nor a model, nor a scheduler that has gone."""
    gc.disable()
    try:
        model = made_model()
        for forward in (False, True):
            optimizer = optimizer_of(model.named_parameters(), comm, overlap_forward=forward, module=model)
            schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
            step(model, optimizer)
            schedule.step()
            optimizer.wait_params()
            seen = weakref.ref(optimizer)
            del optimizer, schedule
            assert seen() is None
            assert not any(tensor._post_accumulate_grad_hooks for tensor in model.parameters())
            assert not any(module._forward_pre_hooks for module in model.modules())
    finally:
        gc.enable()


@on_ranks(1, 2)
def test_a_model_goes_on_after_its_optimizer(comm, folder):
    """Closed or dropped: its parameters keep their values, and are the program's alone."""
    for share in (False, True):
        for close in (True, False):
            model = made_model()
            optimizer = optimizer_of(model.named_parameters(), comm, share_params=share)
            step(model, optimizer)
            values = bits_of(model.parameters())
            if close:
                optimizer.close()
            del optimizer
            gc.collect()
            assert bits_of(model.parameters()) == values
            assert all(tensor.grad is None for tensor in model.parameters())
            comm.barrier()
            if share and not close:
                continue  # one memory for all ranks still: not one's own to write
            plain = torch.optim.SGD(model.parameters(), lr=1.0 + comm.rank)
            for _ in range(2):
                step(model, plain)
                plain.zero_grad()
            assert bits_of(model.parameters()) != values
            comm.barrier()


@on_ranks(1, 2)
def test_the_optimizer_that_was_made_last_has_the_parameters(comm, folder):
    model = made_model()
    first = optimizer_of(model.named_parameters(), comm)
    step(model, first)
    with optimizer_of(model.named_parameters(), comm) as second:
        for _ in range(3):
            step(model, second)
        assert second.info().count == 3
        with raised(zero1.StateError, "memory"):
            first.step()
        step(model, second)
        assert second.info().count == 4
    first.close()


@on_ranks(1)
def test_a_close_in_the_middle_of_a_step_is_fine(comm, folder):
    model = made_model()
    optimizer = optimizer_of(model.named_parameters(), comm)
    before = bits_of(model.parameters())
    model(torch.ones(1, LARGE // 4)).sum().backward()
    optimizer.close()
    assert bits_of(model.parameters()) == before
    assert all(tensor.grad is None for tensor in model.parameters())
    with optimizer_of(model.named_parameters(), comm) as other:
        step(model, other)
        assert other.info().count == 1
