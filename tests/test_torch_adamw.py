"""zero1.torch against torch's own optimizers, which take the mean of all ranks' losses."""

import copy
import warnings

import pytest
from torch_ranks import distance, on_ranks, optimizer_of, torch

STEPS = 20
TOLERANCE = 1e-6  # rounding of single steps, and of sums in another order


def model_and_copy():
    """Two that begin alike."""
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(40, 30), torch.nn.Tanh(), torch.nn.LayerNorm(30),
                                torch.nn.Linear(30, 9))
    return model, copy.deepcopy(model)


def groups_of(model) -> list[dict]:
    """Weights decay, and have other betas."""
    return [{"params": [tensor for tensor in model.parameters() if tensor.dim() > 1], "lr": 1e-2, "weight_decay": 0.1},
            {"params": [tensor for tensor in model.parameters() if tensor.dim() <= 1], "lr": 2e-3,
             "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.0}]


def batch_of(step: int, rank: int):
    random = torch.Generator().manual_seed(100 * step + rank)
    return torch.randn(6, 40, generator=random), torch.randn(6, 9, generator=random)


def loss_of(model, step: int, rank: int):
    inputs, targets = batch_of(step, rank)
    return torch.nn.functional.mse_loss(model(inputs), targets)


def backward_of_mean(model, step: int, world_size: int) -> None:
    """Of the mean of all ranks' losses. Moments divide a gradient by its size, so that what rounding leaves of one
    that is nearly zero counts as much as any: gradients are added in the order of ranks, as the library does."""
    for rank in range(world_size):
        loss_of(model, step, rank).backward()
    for tensor in model.parameters():
        tensor.grad /= world_size


def train(comm, optimizer, model, expected, reference, steps=STEPS, each=lambda step: None) -> None:
    """`each` comes between backward and step."""
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(model, step, comm.rank).backward()
        expected.zero_grad()
        backward_of_mean(reference, step, comm.world_size)
        each(step)
        optimizer.step()
        expected.step()
        assert distance(model.parameters(), reference.parameters()) <= TOLERANCE


@on_ranks(1, 2, 3)
def test_twenty_clipped_steps_of_two_groups_are_those_of_adamw(comm, folder):
    model, reference = model_and_copy()
    expected = torch.optim.AdamW(groups_of(reference))
    clipped = []
    with optimizer_of(groups_of(model), comm) as optimizer:
        def clip(step):
            bound = (0.5, 50.0)[step % 2]
            norm = optimizer.clip_grad_norm(bound)
            theirs = torch.nn.utils.clip_grad_norm_(reference.parameters(), bound)
            assert norm.item() == pytest.approx(theirs.item(), rel=1e-6)
            clipped.append(norm.item() > bound)

        train(comm, optimizer, model, expected, reference, each=clip)
        assert clipped == [True, False] * (STEPS // 2)
        assert optimizer.info().count == STEPS


@on_ranks(1, 2, 3)
def test_twenty_steps_are_those_of_adam_with_l2(comm, folder):
    model, reference = model_and_copy()
    expected = torch.optim.Adam(reference.parameters(), lr=1e-2, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.1)
    with optimizer_of(model.parameters(), comm, lr=1e-2, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.1,
                      decoupled_weight_decay=False, max_grad_norm=1e6) as optimizer:
        train(comm, optimizer, model, expected, reference)


# ---- schedules of torch, as they are ----

SCHEDULES = {
    "step": lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 3, gamma=0.5),
    "lambda": lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda step: 1 / (1 + step),
                                                                             lambda step: 0.9**step]),
    "cosine": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 4),
    "one cycle": lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, [0.05, 0.02], total_steps=STEPS),
    "cyclic": lambda optimizer: torch.optim.lr_scheduler.CyclicLR(optimizer, 1e-3, 1e-2, 3, cycle_momentum=True),
    "sequence": lambda optimizer: torch.optim.lr_scheduler.SequentialLR(
        optimizer, [torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=5),
                    torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)], [5]),
}


def rates_of(optimizer) -> list[tuple]:
    return [(group["lr"], group["betas"]) for group in optimizer.param_groups]


def assert_scheduled_alike(comm, make) -> None:
    model, reference = model_and_copy()
    expected = torch.optim.AdamW(groups_of(reference))
    with optimizer_of(groups_of(model), comm) as optimizer:
        schedules, rates = [make(optimizer), make(expected)], set()

        def advance(step):
            if step:
                for schedule in schedules:
                    schedule.step()
            assert rates_of(optimizer) == rates_of(expected)
            rates.add(str(rates_of(optimizer)))

        train(comm, optimizer, model, expected, reference, steps=8, each=advance)
        assert len(rates) > 2
        assert [optimizer.core.get_group(number).lr for number in range(2)] == [rate for rate, _ in rates_of(expected)]


@on_ranks(1, 2)
def test_schedulers_of_torch_work_as_they_are(comm, folder):
    for make in SCHEDULES.values():
        assert_scheduled_alike(comm, make)


@on_ranks(1, 2)
def test_reduce_on_plateau_lowers_lr(comm, folder):
    model, reference = model_and_copy()
    expected = torch.optim.AdamW(groups_of(reference))
    with optimizer_of(groups_of(model), comm) as optimizer:
        schedules = [torch.optim.lr_scheduler.ReduceLROnPlateau(one, patience=1) for one in (optimizer, expected)]

        def advance(step):
            for schedule in schedules:
                schedule.step(1.0)  # it gets no better

        train(comm, optimizer, model, expected, reference, steps=6, each=advance)
        assert optimizer.param_groups[0]["lr"] == expected.param_groups[0]["lr"] < 1e-3
        assert optimizer.core.get_group(0).lr == optimizer.param_groups[0]["lr"]


@on_ranks(1, 2)
def test_a_scheduler_warns_of_no_wrong_order(comm, folder):
    model, _ = model_and_copy()
    with optimizer_of(model.parameters(), comm) as optimizer, warnings.catch_warnings():
        warnings.simplefilter("error")
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        loss_of(model, 0, comm.rank).backward()
        optimizer.step()
        schedule.step()


# ---- closures ----


@on_ranks(1, 2)
def test_step_calls_a_closure_and_returns_its_loss(comm, folder):
    model, reference = model_and_copy()
    expected = torch.optim.AdamW(reference.parameters(), lr=1e-2)
    with optimizer_of(model.parameters(), comm, lr=1e-2) as optimizer:
        for step in range(3):
            def closure():
                optimizer.zero_grad()
                loss = loss_of(model, step, comm.rank)
                loss.backward()
                return loss

            loss = optimizer.step(closure)
            assert loss.item() == pytest.approx(loss_of(reference, step, comm.rank).item(), rel=1e-5)
            expected.zero_grad()
            backward_of_mean(reference, step, comm.world_size)
            expected.step()
            assert distance(model.parameters(), reference.parameters()) <= TOLERANCE


# ---- many small parameters in small buckets, microbatches, and numbers that are far from the defaults ----


@on_ranks(1, 2, 3)
def test_eleven_parameters_of_seven_elements_in_small_buckets(comm, folder):
    random = torch.Generator().manual_seed(3)
    values = [torch.randn(7, generator=random) for _ in range(11)]
    params, reference = ([torch.nn.Parameter(value.clone()) for value in values] for _ in range(2))
    groups = [{"lr": 1e-2}, {"lr": 2e-2, "weight_decay": 0.5}]

    def grouped(tensors):
        return [group | {"params": tensors[number::2]} for number, group in enumerate(groups)]

    expected = torch.optim.AdamW(grouped(reference), betas=(0.1, 0.2), eps=0.25)
    with optimizer_of(grouped(params), comm, betas=(0.1, 0.2), eps=0.25, bucket_numel=256 * comm.world_size,
                      max_grad_norm=2.0) as optimizer:
        def loss(tensors, step, micro, rank):
            random = torch.Generator().manual_seed(1000 * step + 10 * micro + rank)
            return sum((tensor * torch.randn(7, generator=random)).sin().sum() for tensor in tensors) / 3

        for step in range(STEPS):
            optimizer.zero_grad()
            with optimizer.no_sync():
                for micro in range(2):
                    loss(params, step, micro, comm.rank).backward()
            loss(params, step, 2, comm.rank).backward()
            optimizer.step()
            expected.zero_grad()
            for micro in range(3):
                losses = [loss(reference, step, micro, rank) for rank in range(comm.world_size)]
                (sum(losses) / comm.world_size).backward()
            torch.nn.utils.clip_grad_norm_(reference, 2.0)
            expected.step()
            assert distance(params, reference) <= TOLERANCE
