"""Models that torch.compile compiles, whole, in part, or in place: parameters and gradients are as without it."""

import os
import pathlib
import shutil
import sysconfig
from unittest import mock

import pytest
from torch_ranks import distance, on_ranks, optimizer_of, torch

STEPS = 4


def made_model():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Linear(16, 8)),
                               torch.nn.LayerNorm(8))


def whole(model, backend):
    return torch.compile(model, backend=backend)


def in_place(model, backend):
    model.compile(backend=backend)
    return model


def a_part(model, backend):
    model[1].compile(backend=backend)
    return model


def a_part_replaced(model, backend):
    model[1] = torch.compile(model[1], backend=backend)
    return model


def backward(model, seed: int) -> None:
    inputs = torch.randn(4, 8, generator=torch.Generator().manual_seed(seed))
    (model(inputs) - inputs.flip(0)).square().mean().backward()


def assert_trains_as_plain(comm, compiled_by, backend: str, orders=(True, False), **options) -> None:
    """[orders] of True: the optimizer is made before the model is compiled; of False: after."""
    for before in orders:
        torch.compiler.reset()
        model, plain = made_model(), made_model()
        expected = torch.optim.AdamW(plain.parameters(), lr=1e-2, eps=1e-6)
        parameters = list(model.parameters())
        called = model if before else compiled_by(model, backend)
        with optimizer_of(model.named_parameters(), comm, module=model, lr=1e-2, eps=1e-6, **options) as optimizer:
            called = compiled_by(model, backend) if before else called
            for step in range(STEPS):
                for one, each in ((called, optimizer), (plain, expected)):
                    each.zero_grad()
                    backward(one, step)
                    each.step()
                if step == STEPS - 1:  # until then, forward alone waits
                    optimizer.wait_params()
                    assert distance(parameters, plain.parameters()) <= 1e-6
            optimizer.core.check_replicas()
    torch.compiler.reset()


@on_ranks(1, 2)
def test_compiled_models_train(comm, folder):
    assert_trains_as_plain(comm, whole, "aot_eager")
    assert_trains_as_plain(comm, in_place, "aot_eager")


@on_ranks(1)
def test_compiled_parts_train(comm, folder):
    assert_trains_as_plain(comm, a_part, "aot_eager")
    assert_trains_as_plain(comm, a_part_replaced, "aot_eager")


@on_ranks(1, 2)
def test_compiled_models_train_while_step_does_not_wait(comm, folder):
    """What the hooks do not see of a compiled module is waited for in step."""
    assert_trains_as_plain(comm, whole, "aot_eager", overlap_forward=True)
    assert_trains_as_plain(comm, in_place, "aot_eager", overlap_forward=True)


@on_ranks(1)
def test_compiled_parts_train_while_step_does_not_wait(comm, folder):
    assert_trains_as_plain(comm, a_part, "aot_eager", overlap_forward=True)
    assert_trains_as_plain(comm, a_part_replaced, "aot_eager", overlap_forward=True)


@pytest.mark.skipif(not shutil.which("g++") or not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists(),
                    reason="inductor needs g++ and Python.h")
@on_ranks(1)
def test_what_inductor_compiles_trains(comm, folder):
    torch._inductor.config.compile_threads = 1
    with mock.patch.dict(os.environ, {"TORCHINDUCTOR_CACHE_DIR": str(folder)}):
        assert_trains_as_plain(comm, in_place, "inductor", [True])
