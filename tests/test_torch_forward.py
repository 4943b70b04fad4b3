"""overlap_forward: step does not wait, and whoever reads a parameter reads the new one all the same."""

import copy
import io

import pytest
from torch_ranks import bits_of, on_ranks, optimizer_of, same_bits, torch

import zero1

WIDTH = 600  # so that an update takes longer than the way to what comes next


def made_model():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.Tanh(), torch.nn.Linear(WIDTH, WIDTH))


def backward(model) -> None:
    model(torch.ones(1, WIDTH)).square().mean().backward()


def pair(comm, model):
    """The model with an optimizer that does not wait, and its like with one that does."""
    like = copy.deepcopy(model)
    return (model, optimizer_of(model.named_parameters(), comm, module=model, overlap_forward=True),
            like, optimizer_of(like.named_parameters(), comm, module=like))


def step_both(model, optimizer, like, waits) -> None:
    backward(model)
    backward(like)
    waits.step()
    optimizer.step()


def train_alike(model, optimizer, like, waits, steps: int) -> None:
    """After which, once it is waited for, one is as the other."""
    for _ in range(steps):
        step_both(model, optimizer, like, waits)
    optimizer.wait_params()
    assert bits_of(model.parameters()) == bits_of(like.parameters())


@on_ranks(1, 2)
def test_a_state_dict_has_what_the_step_made(comm, folder):
    """Of the model, or of a part of it."""
    model, optimizer, like, waits = pair(comm, made_model())
    with optimizer, waits:
        for step in range(6):
            step_both(model, optimizer, like, waits)
            if step % 2:
                assert bits_of(model.state_dict().values()) == bits_of(like.state_dict().values())
            else:
                assert bits_of(model[2].state_dict().values()) == bits_of(like[2].state_dict().values())


@on_ranks(1, 2)
def test_what_is_loaded_after_a_step_stays(comm, folder):
    start = made_model()
    model, optimizer, like, waits = pair(comm, made_model())
    with optimizer, waits:
        for step in range(6):
            step_both(model, optimizer, like, waits)
            (model if step % 2 else model[0]).load_state_dict((start if step % 2 else start[0]).state_dict())
            optimizer.wait_params()
            assert bits_of(model[0].parameters()) == bits_of(start[0].parameters())
            like.load_state_dict(model.state_dict())


@on_ranks(1, 2)
def test_wait_params_is_for_those_who_read_elsewhere(comm, folder):
    model, optimizer, like, waits = pair(comm, made_model())
    with optimizer, waits:
        for _ in range(4):
            train_alike(model, optimizer, like, waits, steps=1)


@on_ranks(1)
def test_copies_of_a_model_have_hooks_that_do_nothing(comm, folder):
    """An average of weights takes one, and torch.save of a whole model."""
    model, optimizer, like, waits = pair(comm, made_model())
    with optimizer, waits:
        step_both(model, optimizer, like, waits)
        optimizer.wait_params()
        stored = io.BytesIO()
        torch.save(model, stored)
        stored.seek(0)
        for made in (copy.deepcopy(model), torch.load(stored, weights_only=False),
                     torch.optim.swa_utils.AveragedModel(model).module):
            assert bits_of(made.parameters()) == bits_of(model.parameters())
            backward(made)
            torch.optim.SGD(made.parameters(), lr=1.0).step()
            assert optimizer.info().count == 1
        train_alike(model, optimizer, like, waits, steps=1)


class Functional(torch.nn.Module):
    """The last weight is called as a function before its module is, from the second call on if `late`."""

    def __init__(self, late: bool):
        super().__init__()
        torch.manual_seed(2)
        self.first, self.last = torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, WIDTH)
        self.late, self.calls, self.fails = late, 0, False

    def forward(self, inputs):
        self.calls += 1
        if self.fails:
            raise ArithmeticError("forward failed")
        if not self.late or self.calls > 1:
            inputs = torch.nn.functional.linear(inputs, self.last.weight).tanh()
        return self.last(self.first(inputs).tanh())


@on_ranks(1, 2)
def test_a_weight_called_as_a_function_is_waited_for_before(comm, folder):
    model, optimizer, like, waits = pair(comm, Functional(late=False))
    with optimizer, waits:
        train_alike(model, optimizer, like, waits, steps=6)


@on_ranks(1, 2)
def test_a_forward_that_fails_is_not_the_one_that_is_watched(comm, folder):
    model, optimizer, like, waits = pair(comm, Functional(late=False))
    with optimizer, waits:
        model.fails = True
        with pytest.raises(ArithmeticError):
            backward(model)
        model.fails = False
        train_alike(model, optimizer, like, waits, steps=6)


@on_ranks(1, 2)
def test_a_weight_that_nothing_waited_for_is_an_error(comm, folder):
    """The first forward called its module, and later ones do not."""
    model = made_model()
    optimizer = optimizer_of(model.named_parameters(), comm, module=model, overlap_forward=True)
    with optimizer:
        for _ in range(2):
            backward(model)
            optimizer.step()
        with pytest.raises(zero1.StateError, match="2.weight.*wait_params"):
            torch.nn.functional.linear(torch.ones(1, WIDTH), model[2].weight).sum().backward()


@on_ranks(1, 2)
def test_eval_and_parts_of_a_model_see_the_new_values(comm, folder):
    model, optimizer, like, waits = pair(comm, made_model())
    with optimizer, waits:
        for step in range(6):
            step_both(model, optimizer, like, waits)
            with torch.no_grad():
                for part in (model, model[2]) if step % 2 else (model[2], model):
                    other = like if part is model else like[2]
                    assert same_bits(part(torch.ones(1, WIDTH)), other(torch.ones(1, WIDTH)))


@on_ranks(1)
def test_overlap_forward_needs_the_module(comm, folder):
    with pytest.raises(zero1.InvalidError, match="module"):
        optimizer_of(made_model().parameters(), comm, overlap_forward=True)
    with pytest.raises(zero1.InvalidError, match="none of the module's"):
        optimizer_of(made_model().parameters(), comm, module=made_model())
