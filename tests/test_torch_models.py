"""Models of many kinds train as with torch.optim.AdamW: tied, frozen, empty and scalar parameters, bf16, and more."""

import copy

import pytest
from torch_ranks import bits_of, distance, on_ranks, optimizer_of, same_bits, torch
from torch.utils.checkpoint import checkpoint

import zero1


def assert_trains_as_adamw(comm, model, call, steps=4, eps=1e-6, **options) -> None:
    """Every rank takes the same inputs, so that the mean over ranks is what one alone has."""
    reference = copy.deepcopy(model)
    expected = torch.optim.AdamW(reference.parameters(), lr=1e-2, eps=eps)
    before = bits_of(model.parameters())
    with optimizer_of(model.named_parameters(), comm, lr=1e-2, eps=eps, module=model, **options) as optimizer:
        for step in range(steps):
            inputs = torch.randn(4, 8, generator=torch.Generator().manual_seed(step))
            for one, each in ((model, optimizer), (reference, expected)):
                each.zero_grad()
                call(one, inputs).backward()
                each.step()
            optimizer.wait_params()
            assert distance(model.parameters(), reference.parameters()) <= 1e-6
        optimizer.core.check_replicas()
        assert bits_of(model.parameters()) != before


def summed(model, inputs):
    return model(inputs).square().mean()


class Tied(torch.nn.Module):
    """The first weight is the last one's, too, and is called as a function besides."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.embed = torch.nn.Linear(8, 8)
        self.middle = torch.nn.Linear(8, 8)
        self.head = torch.nn.Linear(8, 8, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, inputs):
        hidden = self.middle(self.embed(inputs)).tanh()
        return self.head(hidden) + torch.nn.functional.linear(hidden, self.embed.weight)


@on_ranks(1, 2, 3)
def test_a_tied_parameter_is_one(comm, folder):
    for options in ({}, {"overlap": False}, {"overlap_forward": True}):
        model = Tied()
        assert_trains_as_adamw(comm, model, summed, **options)
        assert model.head.weight is model.embed.weight
        assert len(list(model.parameters())) == 4


@on_ranks(1, 2)
def test_frozen_parameters_stay_and_travel(comm, folder):
    """Rank 0's values come to every rank; they have no state."""
    torch.manual_seed(5)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 8))
    model[0].requires_grad_(False)
    assert_trains_as_adamw(comm, model, summed)
    frozen = torch.nn.Parameter(torch.full((5,), comm.rank + 1.0), requires_grad=False)
    trained = torch.nn.Parameter(torch.full((5,), comm.rank + 1.0))
    with optimizer_of([frozen, trained], comm, lr=0.5, weight_decay=0.0) as optimizer:
        assert (frozen == 1).all() and (trained == 1).all()
        (trained.sum() * frozen.sum()).backward()
        optimizer.step()
        assert (frozen == 1).all() and (trained == 0.5).all()
        assert optimizer.core.registered[0].frozen


@on_ranks(1, 2)
def test_a_parameter_frozen_later_is_left_alone_and_one_thawed_later_is_an_error(comm, folder):
    torch.manual_seed(5)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
    model[1].bias.requires_grad_(False)
    with optimizer_of(model.named_parameters(), comm) as optimizer:
        summed(model, torch.ones(2, 8)).backward()
        optimizer.step()
        model[0].requires_grad_(False)
        before = copy.deepcopy(model)
        summed(model, torch.ones(2, 8)).backward()
        optimizer.step()
        changed = [not same_bits(one, other) for one, other in zip(model.parameters(), before.parameters())]
        assert changed == [False, False, True, False]
        model[1].bias.requires_grad_(True)
        summed(model, torch.ones(2, 8)).backward()
        with pytest.raises(zero1.StateError, match="1.bias.*frozen"):
            optimizer.step()


class Odd(torch.nn.Module):
    """Parameters of no dimension, of no element, of one element."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(2.0))
        self.none = torch.nn.Parameter(torch.empty(0, 3))
        self.one = torch.nn.Parameter(torch.ones(1, 1, 1))
        self.most = torch.nn.Parameter(torch.linspace(-1, 1, 8))

    def forward(self, inputs):
        return inputs * self.scale * self.one[0] * self.most + self.none.sum()


@on_ranks(1, 2, 3)
def test_scalar_and_empty_parameters(comm, folder):
    assert_trains_as_adamw(comm, Odd(), summed)
    with optimizer_of([torch.nn.Parameter(torch.empty(0))], comm) as optimizer:
        optimizer.step()
        assert optimizer.info().count == 1


@on_ranks(1, 2)
def test_attention_whose_projection_is_called_as_a_function(comm, folder):
    torch.manual_seed(6)
    model = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

    def attend(one, inputs):
        return one(inputs[None]).square().mean() + one(inputs[None]).sum() * 0.01

    for options in ({}, {"overlap_forward": True}):  # eps: the true gradient of the keys' bias is zero
        assert_trains_as_adamw(comm, copy.deepcopy(model), attend, eps=1e-2, **options)


class Checkpointed(torch.nn.Module):
    def __init__(self, reentrant: bool):
        super().__init__()
        torch.manual_seed(7)
        self.reentrant = reentrant
        self.blocks = torch.nn.ModuleList(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh()) for _ in range(3))

    def forward(self, inputs):
        inputs = inputs.requires_grad_()
        for block in self.blocks:
            inputs = checkpoint(block, inputs, use_reentrant=self.reentrant)
        return inputs


@on_ranks(1, 2)
def test_activation_checkpointing(comm, folder):
    """The forward that backward repeats comes with parameters that were waited for."""
    for reentrant in (False, True):
        for options in ({}, {"overlap_forward": True}):
            assert_trains_as_adamw(comm, Checkpointed(reentrant), summed, **options)


# ---- bf16 ----


@on_ranks(1, 2)
def test_bf16_parameters_have_masters_in_float32(comm, folder):
    """Steps that are too small for bf16 add up."""
    param = torch.nn.Parameter(torch.ones(600, dtype=torch.bfloat16))
    with optimizer_of([param], comm, lr=2.0**-10, betas=(0.0, 0.0), eps=0.0, weight_decay=0.0) as optimizer:
        for step in range(1, 9):
            param.sum().backward()
            optimizer.step()
            assert (optimizer.core.get_state(0, "master_param") == 1 - step * 2.0**-10).all()
        assert (param == 1 - 2.0**-7).all() and param.dtype == torch.bfloat16
        assert optimizer.memory().master_bytes > 0


@on_ranks(1, 2)
def test_masters_follow_what_torch_knows_to_be_written(comm, folder):
    """Of the model's load_state_dict, without a call. Parameters that nobody wrote keep their lower bits."""
    torch.manual_seed(8)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)).bfloat16()
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with optimizer_of(model.named_parameters(), comm, lr=1e-3, weight_decay=0.0) as optimizer:
        for _ in range(3):
            summed(model, torch.ones(2, 8, dtype=torch.bfloat16)).backward()
            optimizer.step()
        masters = [optimizer.core.get_state(index, "master_param") for index in range(4)]
        model.load_state_dict(start | {"1.weight": model[1].weight, "1.bias": model[1].bias})
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        summed(model, torch.ones(2, 8, dtype=torch.bfloat16)).backward()
        optimizer.step()
        for index, name in enumerate(start):
            found = optimizer.core.get_state(index, "master_param")
            expected = start[name].float().numpy() if name[0] == "0" else masters[index]
            assert (found == expected).all(), name


@on_ranks(1, 2)
def test_an_average_of_weights_is_swapped_in_and_out(comm, folder):
    """With params_changed where torch does not see the writing."""
    torch.manual_seed(9)
    model = torch.nn.Linear(8, 4).bfloat16()
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    inputs = torch.ones(2, 8, dtype=torch.bfloat16)
    with optimizer_of(model.named_parameters(), comm, lr=0.1, weight_decay=0.0) as optimizer:
        for _ in range(3):
            summed(model, inputs).backward()
            optimizer.step()
            average.update_parameters(model)
        kept = [tensor.detach().clone() for tensor in model.parameters()]
        for tensor, other in zip(model.parameters(), average.parameters()):
            tensor.detach().view(torch.int16).numpy()[...] = other.detach().view(torch.int16).numpy()
        optimizer.params_changed()
        assert (optimizer.core.get_state(0, "master_param") == model.weight.detach().float().numpy()).all()
        assert same_bits(model.weight, average.module.weight) and not same_bits(model.weight, kept[0])
        with torch.no_grad():
            for tensor, other in zip(model.parameters(), kept):
                tensor.copy_(other)
        optimizer.params_changed()
        summed(model, inputs).backward()
        optimizer.step()
        assert (optimizer.core.get_state(0, "master_param") != kept[0].float().numpy()).any()


@on_ranks(1, 2)
def test_what_one_rank_alone_swaps_in_and_out_holds_nobody_up(comm, folder):
    """An average that rank 0 looks at, say: its masters keep their lower bits, and nobody waits for the others."""
    torch.manual_seed(10)
    model = torch.nn.Linear(8, 4).bfloat16()
    inputs = torch.ones(2, 8, dtype=torch.bfloat16)
    with optimizer_of(model.named_parameters(), comm, lr=1e-3, weight_decay=0.0) as optimizer:
        for _ in range(3):
            summed(model, inputs).backward()
            optimizer.step()
        masters = [optimizer.core.get_state(index, "master_param") for index in range(2)]
        if optimizer.rank == 0:
            kept = copy.deepcopy(model.state_dict())
            model.load_state_dict({name: torch.zeros_like(tensor) for name, tensor in kept.items()})
            model.load_state_dict(kept)
        optimizer.param_groups[0]["lr"] = 0.0
        summed(model, inputs).backward()
        optimizer.step()
        for index, before in enumerate(masters):
            assert (optimizer.core.get_state(index, "master_param") == before).all()
        optimizer.core.check_replicas()
