"""Gradients that come in other ways than one backward a step: microbatches, none, by hand, given up."""

import copy

import pytest
from torch_ranks import bits_of, distance, on_ranks, optimizer_of, same_bits, torch

import zero1


def made_model(**options):
    torch.manual_seed(2)
    return torch.nn.Sequential(torch.nn.Linear(8, 6, **options), torch.nn.Tanh(), torch.nn.Linear(6, 4, **options))


def inputs_of(rank: int, rows: int = 4):
    return torch.randn(rows, 8, generator=torch.Generator().manual_seed(rank))


def backward(model, rank: int) -> None:
    model(inputs_of(rank)).square().mean().backward()


def grads_of(model) -> list:
    return [tensor.grad for tensor in model.parameters()]


@on_ranks(1, 2)
def test_microbatches_in_no_sync_are_added_as_torch_does(comm, folder):
    for overlap in (True, False):
        model = made_model()
        plain = copy.deepcopy(model)
        with optimizer_of(model.parameters(), comm, overlap=overlap) as optimizer:
            for micro in range(3):
                with optimizer.no_sync():
                    backward(model, micro)
                backward(plain, micro)
                assert bits_of(grads_of(model)) == bits_of(grads_of(plain))
            optimizer.step()
            assert grads_of(model) == [None] * 4


@on_ranks(1, 2)
def test_without_overlap_microbatches_need_no_context(comm, folder):
    """And gradients are the program's to write until step."""
    model = made_model()
    plain = copy.deepcopy(model)
    reference = torch.optim.AdamW(plain.parameters(), lr=1e-2)
    with optimizer_of(model.parameters(), comm, lr=1e-2, overlap=False) as optimizer:
        for step in range(3):
            reference.zero_grad()
            for micro in (5, 6):
                backward(model, micro)
                backward(plain, micro)
            for one in (model, plain):
                torch.nn.utils.clip_grad_value_(one.parameters(), 0.01)
            assert step or bits_of(grads_of(model)) == bits_of(grads_of(plain))
            optimizer.step()
            reference.step()
            assert distance(model.parameters(), plain.parameters()) <= 1e-6


@on_ranks(2, 3, launcher="torchrun")
def test_distributed_data_parallel_with_adamw_gives_the_same(comm, folder):
    model, rank = made_model(), torch.distributed.get_rank()
    parallel = torch.nn.parallel.DistributedDataParallel(copy.deepcopy(model))
    reference = torch.optim.AdamW(parallel.parameters(), lr=1e-2)
    with optimizer_of(model.parameters(), comm, lr=1e-2) as optimizer:
        assert optimizer.world_size == torch.distributed.get_world_size() and optimizer.rank == rank
        for step in range(5):
            for one, each, no_sync in ((model, optimizer, optimizer.no_sync), (parallel, reference, parallel.no_sync)):
                each.zero_grad()
                with no_sync():
                    backward(one, 10 * step + rank)
                backward(one, 100 * step + rank)
                each.step()
            assert distance(model.parameters(), parallel.parameters()) <= 1e-6


# ---- parameters without a gradient ----


class Switched(torch.nn.Module):
    """`used` says which parts are."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.parts = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(3))
        self.scale = torch.nn.Parameter(torch.tensor(1.5))
        self.unused = torch.nn.Parameter(torch.ones(5))

    def forward(self, inputs, used):
        for index in used:
            inputs = self.parts[index](inputs).tanh()
        return (inputs * self.scale).sum()


@on_ranks(1, 2, 3)
def test_what_gets_no_gradient_on_any_rank_is_left_alone(comm, folder):
    """As torch leaves it: no decay, no moments. Where some ranks have one, the others count as zero."""
    model = Switched()
    with optimizer_of(model.named_parameters(), comm, lr=0.1, weight_decay=0.5) as optimizer:
        for step in range(4):
            before = copy.deepcopy(model)
            used = [0] + [1] * (comm.rank == comm.world_size - 1) + [2] * (step == 3)
            model(inputs_of(comm.rank), used).backward()
            optimizer.step()
            changed = [not same_bits(one, other) for one, other in zip(model.parameters(), before.parameters())]
            # scale, unused, parts 0, 1, 2: weight and bias of each
            assert changed == [True, False, True, True, True, True] + [step == 3] * 2
        optimizer.core.check_replicas()
        assert not optimizer.core.get_state(optimizer.core.find("unused"), "exp_avg").any()


@on_ranks(1, 2)
def test_a_step_in_which_nothing_has_a_gradient_changes_nothing(comm, folder):
    model = made_model()
    before = bits_of(model.parameters())
    with optimizer_of(model.parameters(), comm, weight_decay=0.5) as optimizer:
        optimizer.step()
        optimizer.zero_grad()
        optimizer.step()
        assert bits_of(model.parameters()) == before
        backward(model, comm.rank)
        optimizer.step()
        assert bits_of(model.parameters()) != before


@on_ranks(2, 3)
def test_a_rank_without_any_gradient_keeps_up(comm, folder):
    """Though its peers find in backward that parameters were written, and make masters before the first gradient."""
    model = made_model(dtype=torch.bfloat16)
    with optimizer_of(model.parameters(), comm, lr=0.0, weight_decay=0.0) as optimizer:
        with torch.no_grad():
            model[0].bias.fill_(0.25)
        if comm.rank != 1:
            model(inputs_of(0).bfloat16()).float().square().mean().backward()
        optimizer.step()
        assert (model[0].bias == 0.25).all()
        assert (optimizer.core.get_state(1, "master_param") == 0.25).all()


# ---- gradients that are written, set or given up ----


@on_ranks(1, 2)
def test_gradients_assigned_by_hand_are_averaged(comm, folder):
    param = torch.nn.Parameter(torch.ones(10))
    other = torch.nn.Parameter(torch.ones(3))
    with optimizer_of([param, other], comm, lr=0.5, betas=(0.0, 0.0), eps=0.0, weight_decay=0.0) as optimizer:
        param.grad = torch.full((10,), comm.rank + 1.0)
        optimizer.step()
        assert optimizer.info().grad_norm == pytest.approx((comm.world_size + 1) / 2 * 10**0.5)
        assert (param == 0.5).all() and (other == 1).all() and param.grad is None


@on_ranks(1, 2)
def test_a_gradient_set_to_none_before_step_leaves_its_parameter_alone(comm, folder):
    """Of a last layer that is not to move yet, for example."""
    model = made_model()
    before = copy.deepcopy(model)
    with optimizer_of(model.parameters(), comm, overlap=False) as optimizer:
        backward(model, 0)
        model[2].weight.grad = None
        optimizer.step()
        assert same_bits(model[2].weight, before[2].weight) and not same_bits(model[2].bias, before[2].bias)


@on_ranks(1)
def test_a_gradient_that_is_handed_over_cannot_be_taken_back(comm, folder):
    for change in (lambda tensor: setattr(tensor, "grad", None), lambda tensor: tensor.grad.zero_(),
                   lambda tensor: setattr(tensor, "grad", torch.ones_like(tensor))):
        model = made_model()
        with optimizer_of(model.named_parameters(), comm) as optimizer:
            backward(model, 0)
            change(model[2].weight)
            with pytest.raises(zero1.StateError, match="2.weight.*overlap=False"):
                optimizer.step()


@on_ranks(1, 2)
def test_gradients_given_up_do_not_count(comm, folder):
    """By either zero_grad, of optimizer or model, to None or to zeros, handed over or not."""
    start = made_model()
    found = set()
    for dtype in (torch.float32, torch.bfloat16):
        for overlap in (True, False):
            for give_up in ("optimizer", "zeros", "model"):
                model = copy.deepcopy(start).to(dtype)
                with optimizer_of(model.parameters(), comm, overlap=overlap, grad_dtype=torch.float32) as optimizer:
                    zero_grad = {"optimizer": optimizer.zero_grad, "model": model.zero_grad,
                                 "zeros": lambda: optimizer.zero_grad(set_to_none=False)}[give_up]
                    if give_up == "model" and (overlap or dtype != torch.float32):
                        continue  # what is on its way, or in the optimizer's memory alone, it cannot reach
                    with optimizer.no_sync():
                        model(inputs_of(7).to(dtype)).float().exp().sum().backward()
                    if overlap and give_up == "optimizer":
                        model(inputs_of(8).to(dtype)).float().exp().sum().backward()
                    zero_grad()
                    model(inputs_of(comm.rank).to(dtype)).float().square().mean().backward()
                    optimizer.step()
                    found.add((str(dtype), bits_of(model.parameters()), optimizer.info().grad_norm))
    assert len(found) == 2, found


@on_ranks(1, 2)
def test_what_model_zero_grad_took_is_not_handed_over(comm, folder):
    """Though it gets no gradient afterwards."""
    model = made_model()
    before = copy.deepcopy(model)
    with optimizer_of(model.parameters(), comm) as optimizer:
        with optimizer.no_sync():
            backward(model, comm.rank)
        model.zero_grad()
        model[0].requires_grad_(False)
        backward(model, comm.rank)
        optimizer.step()
        assert same_bits(model[0].weight, before[0].weight) and not same_bits(model[2].weight, before[2].weight)


@on_ranks(1, 2)
def test_a_bound_of_a_step_that_was_given_up_is_not_of_the_next(comm, folder):
    model = made_model()
    with optimizer_of(model.parameters(), comm) as optimizer:
        backward(model, comm.rank)
        optimizer.clip_grad_norm(1e-3)
        optimizer.zero_grad()
        backward(model, comm.rank)
        optimizer.step()
        assert optimizer.info().clip_coef == 1 and optimizer.info().count == 1


@on_ranks(1, 2)
def test_an_infinite_bound_clips_nothing(comm, folder):
    model = made_model()
    plain = copy.deepcopy(model)
    with optimizer_of(model.parameters(), comm, max_grad_norm=1e-3) as optimizer:
        for bound, coefficient in ((float("inf"), 1), (None, pytest.approx(1e-3 / 0.5, rel=0.5))):
            backward(model, 3)
            if bound:
                backward(plain, 3)
                norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), bound)
                assert optimizer.clip_grad_norm(bound).item() == pytest.approx(norm.item(), rel=1e-6)
            optimizer.step()
            assert optimizer.info().clip_coef == coefficient


@on_ranks(1, 2)
def test_a_step_that_is_not_finite_is_skipped_or_given_up(comm, folder):
    model = made_model()
    with optimizer_of(model.parameters(), comm) as optimizer:
        before = bits_of(model.parameters())
        for give_up in (False, True):
            (model(inputs_of(0)).sum() * float("nan" if comm.rank == comm.world_size - 1 else 1)).backward()
            with pytest.raises(zero1.InvalidError, match="nan"):
                optimizer.clip_grad_norm(1.0, error_if_nonfinite=True)
            if give_up:
                optimizer.zero_grad()
            else:
                optimizer.step()
                assert optimizer.info().skip_reason == "nonfinite"
                assert optimizer.info().bad_rank == comm.world_size - 1
            assert bits_of(model.parameters()) == before
        backward(model, comm.rank)
        optimizer.step()
        assert optimizer.info().count == 1 and bits_of(model.parameters()) != before


@on_ranks(1, 2)
def test_gradients_in_float32_of_parameters_in_bf16(comm, folder):
    """Microbatches and ranks add up in float32."""
    param = torch.nn.Parameter(torch.zeros(300, dtype=torch.bfloat16))
    with optimizer_of([param], comm, grad_dtype=torch.float32, betas=(0.0, 0.0), grad_scale=1.0) as optimizer:
        for value in (1.0, 2.0**-10, 2.0**-10):
            with optimizer.no_sync():
                (param * value).float().sum().backward()
        param.grad = torch.full_like(param, 2.0**-9)
        optimizer.step()
        assert (optimizer.core.get_state(0, "exp_avg") == comm.world_size * (1 + 2.0**-8)).all()
