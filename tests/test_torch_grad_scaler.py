"""torch.amp.GradScaler is refused: what it unscales has been handed over."""

import pytest
from torch_ranks import torch

import zero1


@pytest.mark.parametrize("unscale", [False, True])
def test_a_grad_scaler_is_refused_before_anything_is_updated(unscale):
    model = torch.nn.Linear(3, 1)
    before = model.weight.detach().clone()
    with zero1.torch.DistributedOptimizer(model.parameters(), lr=0.1) as optimizer:
        scaler = torch.amp.GradScaler("cpu")
        scaler.scale(model(torch.ones(1, 3)).sum()).backward()
        if unscale:
            scaler.unscale_(optimizer)
        with pytest.raises(zero1.UnsupportedError, match="GradScaler"):
            scaler.step(optimizer)
    assert torch.equal(model.weight, before)


def test_a_grad_scaler_that_is_off_is_none():
    model = torch.nn.Linear(3, 1)
    with zero1.torch.DistributedOptimizer(model.parameters(), lr=0.1) as optimizer:
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        scaler.scale(model(torch.ones(1, 3)).sum()).backward()
        scaler.step(optimizer)
        assert optimizer.info().count == 1
