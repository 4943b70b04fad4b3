"""Checkpoints of zero1.torch: loaded by other numbers of ranks, by torch.optim.AdamW, with schedules that go on."""

import copy
import os
import time

import pytest
from torch_ranks import bits_of, distance, on_ranks, optimizer_of, torch

import zero1


class Scaled(torch.nn.Module):
    """Gradients are small whole numbers, so that sums over ranks are exact."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.first = torch.nn.Parameter(torch.linspace(-1, 1, 900).reshape(300, 3).to(dtype))
        self.second = torch.nn.Parameter(torch.linspace(1, 2, 70).to(dtype))
        self.frozen = torch.nn.Parameter(torch.linspace(3, 4, 5).to(dtype), requires_grad=False)

    def forward(self, seed: int):
        random = torch.Generator().manual_seed(seed)
        return sum((tensor * torch.randint(-4, 5, tensor.shape, generator=random)).sum()
                   for tensor in (self.first, self.second))


def groups_of(model) -> list[dict]:
    return [{"params": [("first", model.first), ("frozen", model.frozen)], "lr": 0.125},
            {"params": [("second", model.second)], "weight_decay": 0.0, "eps": 2.0**-10}]


def made(comm, dtype=torch.float32, **options):
    model = Scaled(dtype)
    return model, optimizer_of(groups_of(model), comm, module=model, **options)


def train(model, optimizer, begin: int, end: int) -> None:
    """Six microbatches a step are shared out, and added up."""
    optimizer.core.set_grad_scale(1.0)
    for step in range(begin, end):
        for micro in range(6)[optimizer.rank::optimizer.world_size]:
            with optimizer.no_sync():
                model(100 * step + micro).backward()
        optimizer.step()


def first_ranks(comm, count: int, folder):
    """A communicator of the first ranks alone, introduced by files; None on the others."""
    if comm.rank >= count:
        return None
    calls = [0]

    def gather(data: bytes) -> list[bytes]:
        calls[0] += 1
        files = [folder / f"of-{count}-{calls[0]}-{rank}" for rank in range(count)]
        part = folder / f"part-{comm.rank}"
        part.write_bytes(data)
        os.rename(part, files[comm.rank])
        while not all(file.exists() for file in files):
            time.sleep(0.01)
        return [file.read_bytes() for file in files]

    return zero1.Comm.from_allgather(comm.rank, count, gather)


@on_ranks(1, 2, 3)
def test_a_checkpoint_goes_on_at_any_number_of_ranks(comm, folder):
    """With the bits of a run that did not stop."""
    whole, optimizer = made(comm)
    with optimizer:
        train(whole, optimizer, 0, 2)
        optimizer.save(folder / "root", metadata={"epoch": "2"})
        train(whole, optimizer, 2, 4)
        expected = bits_of(whole.parameters())
    for count in range(1, comm.world_size + 1):
        fewer = first_ranks(comm, count, folder)
        if fewer is not None:
            with fewer:
                model, resumed = made(fewer, bucket_numel=1024)
                with resumed:
                    resumed.load(folder / "root")
                    assert resumed.info().count == 2
                    train(model, resumed, 2, 4)
                    assert bits_of(model.parameters()) == expected
                    if comm.world_size > count:
                        resumed.save(folder / f"of-{count}")
        comm.barrier()
        if comm.world_size > count:  # and back to more
            model, resumed = made(comm)
            with resumed:
                resumed.load(folder / f"of-{count}")
                assert resumed.info().count == 4 and bits_of(model.parameters()) == expected
                train(model, resumed, 4, 5)
    return expected


@on_ranks(1, 2)
def test_bf16_goes_on_with_its_masters(comm, folder):
    model, optimizer = made(comm, torch.bfloat16)
    with optimizer:
        train(model, optimizer, 0, 3)
        optimizer.save_async(folder / "root", mode="snapshot")
        train(model, optimizer, 3, 5)
        optimizer.wait()
        assert optimizer.poll() and optimizer.report().count == 3
        expected = bits_of(model.parameters())
    other, resumed = made(comm, torch.bfloat16)
    with resumed:
        resumed.load(folder / "root")
        train(other, resumed, 3, 5)
        assert bits_of(other.parameters()) == expected


@on_ranks(1, 2)
def test_what_was_written_just_before_is_saved(comm, folder):
    """bf16 parameters are saved as their masters, which have to follow first."""
    for save in ("save", "save_async"):
        model, optimizer = made(comm, torch.bfloat16)
        with optimizer:
            train(model, optimizer, 0, 2)
            written = {name: tensor + 1 for name, tensor in model.state_dict().items()}
            model.load_state_dict(written)
            getattr(optimizer, save)(folder / save)
            optimizer.wait()
        with zero1.checkpoint.open(folder / save) as saved:
            for name, tensor in written.items():
                assert (torch.from_numpy(saved.read(name, dtype="fp32")) == tensor.float()).all(), name


@on_ranks(1, 2)
def test_rates_and_schedules_go_on(comm, folder):
    model, optimizer = made(comm)
    with optimizer:
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [0.25, 0.5], total_steps=20)
        for step in range(5):
            train(model, optimizer, step, step + 1)
            schedule.step()
        optimizer.save(folder / "root")
        kept = copy.deepcopy(schedule.state_dict())
        rates = [(group["lr"], group["betas"]) for group in optimizer.param_groups]
        train(model, optimizer, 5, 6)
        schedule.step()
        later = [(group["lr"], group["betas"]) for group in optimizer.param_groups]
    other, resumed = made(comm)
    with resumed:
        schedule = torch.optim.lr_scheduler.OneCycleLR(resumed, [0.25, 0.5], total_steps=20)
        resumed.load(folder / "root")
        schedule.load_state_dict(kept)
        assert [(group["lr"], group["betas"]) for group in resumed.param_groups] == rates
        train(other, resumed, 5, 6)
        schedule.step()
        assert [(group["lr"], group["betas"]) for group in resumed.param_groups] == later
        assert bits_of(other.parameters()) == bits_of(model.parameters())


@on_ranks(1, 2)
def test_hyper_parameters_may_stay_as_they_are(comm, folder):
    model, optimizer = made(comm)
    with optimizer:
        train(model, optimizer, 0, 1)
        optimizer.save(folder / "root")
        optimizer.param_groups[0]["lr"] = 0.5
        optimizer.step()
        optimizer.load(folder / "root", keep_hyper=True)
        assert optimizer.param_groups[0]["lr"] == 0.5
        optimizer.param_groups[0]["lr"] = 0.25
        optimizer.load(folder / "root")
        assert optimizer.param_groups[0]["lr"] == 0.125 == optimizer.core.get_group(0).lr
        optimizer.param_groups[0]["lr"] = 0.5  # set before, and never in a step
        optimizer.load(folder / "root", keep_hyper=True)
        assert optimizer.param_groups[0]["lr"] == 0.5


@on_ranks(1, 2)
def test_adamw_goes_on_from_a_checkpoint(comm, folder):
    for dtype in (torch.float32, torch.bfloat16):
        root = folder / str(dtype)
        model, optimizer = made(comm, dtype)
        with optimizer:
            train(model, optimizer, 0, 3)
            optimizer.save(root)
            comm.barrier()
            state = zero1.torch.state_dict_of(root)
            assert [group["param_names"] for group in state["param_groups"]] == [["first", "frozen"], ["second"]]
            assert state["param_groups"][0]["lr"] == 0.125 and set(state["state"]) == {0, 2}
            assert ("master_param" in state["state"][0]) == (dtype == torch.bfloat16)
            if dtype == torch.bfloat16:
                continue
            reference = copy.deepcopy(model)
            expected = torch.optim.AdamW(groups_of(reference))
            expected.load_state_dict(state)
            train(model, optimizer, 3, 6)
            for step in range(3, 6):
                expected.zero_grad()
                for micro in range(6):
                    reference(100 * step + micro).backward()
                expected.step()
            assert distance(model.parameters(), reference.parameters()) <= 1e-6


@on_ranks(1, 2, 3)
def test_a_checkpoint_of_another_model_is_refused_on_every_rank(comm, folder):
    model, optimizer = made(comm)
    with optimizer:
        train(model, optimizer, 0, 1)
        optimizer.save(folder / "root")
        other = torch.nn.Linear(3, 2)
        groups = [{"params": [entry]} for entry in other.named_parameters()]
        with optimizer_of(groups, comm) as resumed:
            before = bits_of(other.parameters())
            with pytest.raises(zero1.MismatchError, match="weight|bias|first|second"):
                resumed.load(folder / "root")
            with pytest.raises(zero1.NotFoundError, match="nowhere"):
                resumed.load(folder / ("nowhere" if comm.rank == comm.world_size - 1 else "root"))
            assert bits_of(other.parameters()) == before
            other(torch.ones(1, 3)).sum().backward()
            resumed.step()
            assert resumed.info().count == 1
    with pytest.raises(zero1.NotFoundError):
        zero1.torch.state_dict_of(folder / "nowhere")
