"""fp32 masters of a model's parameters, and what a training loop does around the optimizer's step:
with bf16, gradients are cast to fp32 copies before it, and the new values to the parameters after
it."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

import values


class Masters:
    def __init__(self, options: argparse.Namespace, grads: list[torch.Tensor],
                 make_optimizer: Callable[..., torch.optim.Optimizer]) -> None:
        """grads: one per tensor, borrowed; clipping changes them where they are fp32."""
        bf16 = options.dtype == "bf16"
        self.clip, self.grads = options.clip, grads
        self.masters = values.make_params(options, torch.float32)
        self.narrow = [master.detach().bfloat16() for master in self.masters] if bf16 else []
        for master, grad in zip(self.masters, grads):
            master.grad = torch.empty_like(master) if bf16 else grad
        self.optimizer = make_optimizer(self.masters, **values.adamw_options(options))

    def update(self) -> None:
        if self.narrow:
            torch._foreach_copy_([master.grad for master in self.masters], self.grads)
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.masters, self.clip)
        self.optimizer.step()
        if self.narrow:
            torch._foreach_copy_(self.narrow, [master.detach() for master in self.masters])

    def params(self) -> list[torch.Tensor]:
        return self.narrow or self.masters


class Kernel:
    """A peer of one rank: given gradients, the update alone."""
    def __init__(self, options: argparse.Namespace, rank: int,
                 make_optimizer: Callable[..., torch.optim.Optimizer]) -> None:
        self.given = values.make_grads(options, rank)
        clipped = options.clip and options.dtype == "fp32"
        self.grads = [grad.clone() for grad in self.given] if clipped else self.given
        self.masters = Masters(options, self.grads, make_optimizer)
        self.step = self.masters.update
        self.params = self.masters.params

    def prepare(self) -> None:
        if self.grads is not self.given:
            torch._foreach_copy_(self.grads, self.given)
