#!/usr/bin/env python3
"""Times torch's ZeroRedundancyOptimizer(AdamW, fused=True) over gloo: gradients averaged as
DistributedDataParallel does it, each rank updates the parameters that it owns, and broadcasts
them."""

import common

options = common.start(__doc__)

import torch
from torch.distributed.optim import ZeroRedundancyOptimizer

import values
from buckets import Buckets

if options.dtype == "bf16":
    common.absent(options, "it keeps no fp32 masters of bf16 parameters")


class ZeroRedundancy:
    def __init__(self, options, rank: int) -> None:
        self.clip = options.clip
        self.buckets = Buckets(options, rank)
        self.tensors = values.make_params(options, torch.float32)
        for tensor, grad in zip(self.tensors, self.buckets.grads):
            tensor.grad = grad
        self.optimizer = ZeroRedundancyOptimizer(self.tensors,
                                                 optimizer_class=torch.optim.AdamW,
                                                 fused=True,
                                                 **values.adamw_options(options))
        self.prepare = self.buckets.refill

    def step(self) -> None:
        self.buckets.average()
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.tensors, self.clip)
        self.optimizer.step()

    def params(self) -> list[torch.Tensor]:
        return self.tensors


common.run(options, ZeroRedundancy)
