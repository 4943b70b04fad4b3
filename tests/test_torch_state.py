"""State goes from torch's optimizers to this one and back, and through checkpoints to any number of ranks."""

import copy
import os
import time

import pytest
from torch_ranks import bits_of, distance, on_ranks, optimizer_of, torch

import zero1

STEPS = 5


def made_model(dtype=torch.float32):
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.Tanh(), torch.nn.Linear(30, 6)).to(dtype)


def groups_of(model) -> list[dict]:
    named = list(model.named_parameters())
    return [{"params": [entry for entry in named if "bias" in entry[0]], "lr": 5e-3, "weight_decay": 0.0},
            {"params": [entry for entry in named if "weight" in entry[0]], "lr": 1e-2, "betas": (0.8, 0.99)}]


def train(model, optimizer, begin: int, steps: int = STEPS) -> None:
    """Each rank takes the same inputs: the mean over ranks is what one alone has."""
    for step in range(begin, begin + steps):
        inputs = torch.randn(4, 20, generator=torch.Generator().manual_seed(step)).to(model[0].weight.dtype)
        optimizer.zero_grad()
        (model(inputs) - 1).float().square().mean().backward()
        optimizer.step()


def state_everywhere(optimizer, folder):
    """The whole state, which rank 0 hands round in a file."""
    optimizer.consolidate_state_dict(0)
    if optimizer.rank == 0:
        torch.save(optimizer.state_dict(), folder / "state.part")
        os.rename(folder / "state.part", folder / "state")
    elif optimizer.rank:
        with pytest.raises(zero1.StateError, match="consolidate_state_dict"):
            optimizer.state_dict()
    while not (folder / "state").exists():
        time.sleep(0.01)
    return torch.load(folder / "state")  # nothing but tensors and numbers


@on_ranks(1, 2, 3)
def test_training_goes_on_from_adamw(comm, folder):
    reference = made_model()
    expected = torch.optim.AdamW(groups_of(reference))
    train(reference, expected, 0)
    model = copy.deepcopy(reference)
    with optimizer_of(groups_of(model), comm, lr=1.0, betas=(0.0, 0.0)) as optimizer:
        optimizer.load_state_dict(expected.state_dict())
        assert optimizer.info().count == STEPS and optimizer.param_groups[1]["betas"] == (0.8, 0.99)
        train(model, optimizer, STEPS)
        train(reference, expected, STEPS)
        assert distance(model.parameters(), reference.parameters()) <= 1e-6


@on_ranks(1, 2, 3)
def test_training_goes_on_in_adamw(comm, folder):
    model = made_model()
    with optimizer_of(groups_of(model), comm) as optimizer:
        train(model, optimizer, 0)
        state = state_everywhere(optimizer, folder)
        reference = copy.deepcopy(model)
        expected = torch.optim.AdamW(groups_of(reference))
        assert {key: set(entry) for key, entry in state["state"].items()} == dict.fromkeys(
            range(4), {"step", "exp_avg", "exp_avg_sq"})
        for mine, theirs in zip(state["param_groups"], expected.state_dict()["param_groups"], strict=True):
            assert set(mine) == set(theirs)
        expected.load_state_dict(state)
        train(model, optimizer, STEPS)
        train(reference, expected, STEPS)
        assert distance(model.parameters(), reference.parameters()) <= 1e-6


@on_ranks(1, 2)
def test_adam_with_l2_stays_that(comm, folder):
    reference = made_model()
    expected = torch.optim.Adam(reference.parameters(), lr=1e-2, weight_decay=0.1)
    train(reference, expected, 0)
    model = copy.deepcopy(reference)
    with optimizer_of(model.parameters(), comm) as optimizer:
        optimizer.load_state_dict(expected.state_dict())
        train(model, optimizer, STEPS)
        train(reference, expected, STEPS)
        assert distance(model.parameters(), reference.parameters()) <= 1e-6


@on_ranks(1, 2, 3)
def test_state_goes_from_one_to_another_bit_for_bit(comm, folder):
    """Through torch.save and torch.load; with masters, too, of bf16 in memory or on the wire."""
    for number, (dtype, options) in enumerate([(torch.float32, {}), (torch.bfloat16, {}),
                                               (torch.float32, {"param_wire_dtype": "bf16"})]):
        place = folder / str(number)
        place.mkdir(exist_ok=True)
        model = made_model(dtype)
        with optimizer_of(groups_of(model), comm, **options) as optimizer:
            train(model, optimizer, 0)
            state, weights = state_everywhere(optimizer, place), copy.deepcopy(model.state_dict())
            other = made_model(dtype)
            with optimizer_of(groups_of(other), comm, **options) as resumed:
                resumed.load_state_dict(state)
                other.load_state_dict(weights)
                train(model, optimizer, STEPS)
                train(other, resumed, STEPS)
                assert bits_of(model.parameters()) == bits_of(other.parameters())
                assert resumed.info().count == 2 * STEPS and resumed.info().grad_norm == optimizer.info().grad_norm


@on_ranks(2, launcher="torchrun")
def test_state_goes_to_zero_redundancy_optimizer_and_back(comm, folder):
    from torch.distributed.optim import ZeroRedundancyOptimizer

    def sharded(model):
        return ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, lr=1e-2)

    def handed_round(optimizer):
        optimizer.consolidate_state_dict(to=0)
        states = [optimizer.state_dict() if torch.distributed.get_rank() == 0 else None]
        torch.distributed.broadcast_object_list(states)
        return states[0]

    reference = made_model()
    expected = sharded(reference)
    train(reference, expected, 0)
    model = copy.deepcopy(reference)
    with optimizer_of(model.parameters(), comm) as optimizer:
        optimizer.load_state_dict(handed_round(expected))
        train(model, optimizer, STEPS)
        train(reference, expected, STEPS)
        assert distance(model.parameters(), reference.parameters()) <= 1e-6
        other = copy.deepcopy(model)
        back = sharded(other)
        back.load_state_dict(handed_round(optimizer))
        train(model, optimizer, 2 * STEPS)
        train(other, back, 2 * STEPS)
        assert distance(model.parameters(), other.parameters()) <= 1e-6


@on_ranks(1, 2)
def test_a_state_dict_is_of_the_steps_so_far(comm, folder):
    model = made_model()
    with optimizer_of(model.parameters(), comm) as optimizer:
        optimizer.consolidate_state_dict(comm.world_size - 1)
        if comm.rank == comm.world_size - 1:
            assert optimizer.state_dict()["state"] == {}
        train(model, optimizer, 0, steps=1)
        if comm.world_size > 1:
            with pytest.raises(zero1.StateError, match="consolidate_state_dict"):
                optimizer.state_dict()
        else:
            assert len(optimizer.state_dict()["state"]) == 4
        train(model, optimizer, 1, steps=1)
        assert optimizer.info().count == 2


# ---- what cannot be loaded ----


def damaged(state, change):
    made = copy.deepcopy(state)
    change(made)
    return made


def drop_group(state):
    del state["param_groups"][1]


def drop_parameter(state):
    state["param_groups"][1]["params"].pop()


def other_shape(state):
    state["state"][2]["exp_avg_sq"] = torch.zeros(30)


def no_moment(state):
    del state["state"][2]["exp_avg"]


def amsgrad(state):
    state["param_groups"][0]["amsgrad"] = True


def bad_rate(state):
    state["param_groups"][0]["lr"] = "fast"


BAD = [(drop_group, zero1.MismatchError, "1 groups.*2"), (drop_parameter, zero1.MismatchError, "group 1 has 1.*2"),
       (other_shape, zero1.MismatchError, r"0.weight.*\[30, 20\].*exp_avg_sq.*\[30\]"),
       (no_moment, zero1.InvalidError, "exp_avg.*0.weight"), (amsgrad, zero1.InvalidError, "amsgrad"),
       (bad_rate, zero1.InvalidError, "lr"), (dict.clear, zero1.InvalidError, "param_groups")]


@on_ranks(1, 2, 3)
def test_a_state_dict_that_does_not_fit_changes_nothing(comm, folder):
    """On whichever rank it is, every rank raises, and training goes on."""
    reference = made_model()
    expected = torch.optim.AdamW(groups_of(reference))
    train(reference, expected, 0)
    good = expected.state_dict()
    model = copy.deepcopy(reference)
    with optimizer_of(groups_of(model), comm) as optimizer:
        optimizer.load_state_dict(good)
        for change, error, text in BAD:
            bad = damaged(good, change)
            for where in range(comm.world_size + 1):
                mine = where in (comm.rank, comm.world_size)
                with pytest.raises(error if mine else zero1.InvalidError, match=text if mine else "another rank"):
                    optimizer.load_state_dict(bad if mine else good)
        train(model, optimizer, STEPS)
        train(reference, expected, STEPS)
        assert distance(model.parameters(), reference.parameters()) <= 1e-6
