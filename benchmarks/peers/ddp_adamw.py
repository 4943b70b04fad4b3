#!/usr/bin/env python3
"""Times gradients averaged as DistributedDataParallel does it, over gloo, and torch's fused AdamW
on every rank.

With bf16, gradients are averaged in bf16 and cast to fp32, AdamW runs on fp32 masters, and these
are cast to the bf16 parameters."""

import functools

import common

options = common.start(__doc__)

import torch

from buckets import Buckets
from masters import Masters


class DdpAdamw:
    def __init__(self, options, rank: int) -> None:
        self.buckets = Buckets(options, rank)
        self.masters = Masters(options, self.buckets.grads,
                               functools.partial(torch.optim.AdamW, fused=True))
        self.prepare = self.buckets.refill
        self.params = self.masters.params

    def step(self) -> None:
        self.buckets.average()
        self.masters.update()


common.run(options, DdpAdamw)
