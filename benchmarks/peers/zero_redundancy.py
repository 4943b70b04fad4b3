#!/usr/bin/env python3
"""Times torch's ZeroRedundancyOptimizer(AdamW) over gloo: gradients averaged as DistributedDataParallel
does it, each rank updates the parameters that it owns, and broadcasts them."""

from __future__ import annotations

import argparse

import common
from ddp_adamw import Buckets


class ZeroRedundancy:
    @staticmethod
    def absent(options: argparse.Namespace) -> str | None:
        return "it keeps no fp32 masters of bf16 parameters" if options.dtype == "bf16" else None

    def __init__(self, options: argparse.Namespace, rank: int) -> None:
        import torch
        from torch.distributed.optim import ZeroRedundancyOptimizer
        self.clip = options.clip
        self.buckets = Buckets(options, rank)
        self.tensors = common.make_params(options, torch.float32)
        for tensor, grad in zip(self.tensors, self.buckets.grads):
            tensor.grad = grad
        self.optimizer = ZeroRedundancyOptimizer(
            self.tensors, optimizer_class=torch.optim.AdamW, lr=common.LR, betas=common.BETAS,
            eps=options.eps, weight_decay=common.WEIGHT_DECAY, fused=True)

    def prepare(self) -> None:
        self.buckets.refill()

    def step(self) -> None:
        import torch
        self.buckets.average()
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.tensors, self.clip)
        self.optimizer.step()

    def params(self) -> list:
        return self.tensors


if __name__ == "__main__":
    common.main(__doc__, ZeroRedundancy)
