"""The sides of torch_training.py: ways to train a model of torch on several ranks. Each makes of a
model something with

  step(*batch)   forward, backward, update; returns the loss
  finish()       until all that step began is done
  params()       as this rank has them, whole, in the order of the model; collective

and has a name, and a label for people. Absent: it cannot be had here; the text says why."""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

import values

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "python"))
import zero1
import zero1.torch


class Absent(Exception):
    pass


def adamw_options(eps: float) -> dict[str, Any]:
    return {"lr": values.LR, "betas": values.BETAS, "eps": eps, "weight_decay": values.WEIGHT_DECAY}


class Side:
    name = label = ""

    def __init__(self, model: torch.nn.Module, eps: float) -> None:
        self.model = model

    def step(self, *batch: torch.Tensor) -> torch.Tensor:
        loss = self.model(*batch)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def finish(self) -> None:
        pass

    def params(self) -> list[torch.Tensor]:
        return [param.detach() for param in self.model.parameters()]

    def close(self) -> None:
        pass


class Zero1(Side):
    name, label = "zero1", "zero1.torch"
    config: dict[str, Any] = {}

    def __init__(self, model: torch.nn.Module, eps: float) -> None:
        super().__init__(model, eps)
        self.optimizer = zero1.torch.DistributedOptimizer(model.named_parameters(),
                                                          threads=torch.get_num_threads(),
                                                          **self.config,
                                                          **adamw_options(eps))

    def finish(self) -> None:
        self.optimizer.wait_params()

    def close(self) -> None:
        self.optimizer.close()


class Zero1Shared(Zero1):
    name, label = "zero1_shared", "zero1.torch, share_params"
    config = {"share_params": True}


class DdpAdamw(Side):
    name, label = "ddp_adamw", "torch DDP + AdamW, fused"

    def __init__(self, model: torch.nn.Module, eps: float) -> None:
        super().__init__(DistributedDataParallel(model, gradient_as_bucket_view=True), eps)
        self.optimizer = self.make_optimizer(eps)

    def make_optimizer(self, eps: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.model.parameters(), fused=True, **adamw_options(eps))


class ZeroRedundancy(DdpAdamw):
    name, label = "zero_redundancy", "torch ZeroRedundancyOptimizer"

    def make_optimizer(self, eps: float) -> torch.optim.Optimizer:
        return ZeroRedundancyOptimizer(self.model.parameters(),
                                       optimizer_class=torch.optim.AdamW,
                                       parameters_as_bucket_view=True,
                                       fused=True,
                                       **adamw_options(eps))


class Fsdp2(Side):
    name, label = "fsdp2", "torch FSDP2"

    def __init__(self, model: torch.nn.Module, eps: float) -> None:
        super().__init__(model, eps)
        try:
            from torch.distributed.fsdp import fully_shard
        except ImportError as error:
            raise Absent(f"PyTorch {torch.__version__} has no fully_shard: {error}") from None
        mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(), ))
        for module in (*model.blocks, model):
            fully_shard(module, mesh=mesh, reshard_after_forward=False)
        self.optimizer = torch.optim.AdamW(model.parameters(), fused=True, **adamw_options(eps))

    def params(self) -> list[torch.Tensor]:
        return [param.full_tensor().detach() for param in self.model.parameters()]


SIDES = [Zero1, Zero1Shared, DdpAdamw, ZeroRedundancy, Fsdp2]

# ---- what a step is made of ----


class Bare(Side):
    """Forward and backward alone."""
    name, label = "bare", "forward and backward alone"

    def step(self, *batch: torch.Tensor) -> torch.Tensor:
        loss = self.model(*batch)
        loss.backward()
        for param in self.model.parameters():
            param.grad = None
        return loss.detach()


class Core(Side):
    """The library itself, driven by its calls: gradients are in its buffers before."""
    name, label = "core", "the library's calls alone"

    def __init__(self, model: torch.nn.Module, eps: float) -> None:
        super().__init__(model, eps)
        ranks = torch.distributed.get_world_size()

        def allgather(data: bytes) -> list[bytes]:
            gathered: list[bytes] = [b""] * ranks
            torch.distributed.all_gather_object(gathered, data)
            return gathered

        rank = torch.distributed.get_rank()
        options = adamw_options(eps)
        options["beta1"], options["beta2"] = options.pop("betas")
        named = {name: param.detach().numpy() for name, param in model.named_parameters()}
        self.core = zero1.Optimizer(named,
                                    comm=zero1.Comm.from_allgather(rank, ranks, allgather),
                                    threads=torch.get_num_threads(),
                                    share_params=0,
                                    **options)
        self.grads = [torch.from_numpy(grad) for grad in self.core.grads]

    def update(self) -> None:
        self.core.grads_ready()
        self.core.step()
        self.core.wait_params()

    def step(self, *batch: torch.Tensor) -> None:
        self.update()

    def params(self) -> list[torch.Tensor]:
        return [torch.from_numpy(param) for param in self.core.params]

    def close(self) -> None:
        self.grads = []
        self.core.close()


class ByHand(Core):
    """Training with them: the model's parameters and gradients are the library's, and autograd adds
    to what zero_grad has left."""
    name, label = "by_hand", "the library's calls, by hand"

    def __init__(self, model: torch.nn.Module, eps: float) -> None:
        super().__init__(model, eps)
        for param, view, grad in zip(model.parameters(), super().params(), self.grads):
            param.data, param.grad = view, grad

    def step(self, *batch: torch.Tensor) -> torch.Tensor:
        self.core.zero_grad()
        loss = self.model(*batch)
        loss.backward()
        self.update()
        return loss.detach()

    def close(self) -> None:
        for param in self.model.parameters():
            param.data, param.grad = param.data.clone(), None
        super().close()
