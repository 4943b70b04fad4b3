#!/usr/bin/env python3
"""Times gradients averaged as DistributedDataParallel does it, over gloo, and torch's AdamW on every
rank: buckets of 25 MiB, of which the gradients are views, reduced all at once.

With bf16, gradients are averaged in bf16 and cast to fp32, AdamW runs on fp32 masters, and these are
cast to the bf16 parameters."""

from __future__ import annotations

import argparse

import common

BUCKET_BYTES = 25 << 20


class Buckets:
    """A rank's gradients, and their mean over the ranks in the same place."""

    def __init__(self, options: argparse.Namespace, rank: int) -> None:
        import torch
        self.given = common.make_grads(options, rank)
        self.grads: list[torch.Tensor] = []
        self.flat: list[torch.Tensor] = []
        self.ranks = options.ranks
        taken: list[torch.Tensor] = []
        for grad in [*self.given, None]:
            if taken and (grad is None or sum(t.nbytes for t in taken) + grad.nbytes > BUCKET_BYTES):
                self.flat.append(torch.empty(sum(t.numel() for t in taken), dtype=taken[0].dtype))
                self.grads += self.flat[-1].split([t.numel() for t in taken])
                taken = []
            taken.append(grad)

    def refill(self) -> None:
        import torch
        torch._foreach_copy_(self.grads, self.given)

    def average(self) -> None:
        import torch.distributed as dist
        works = [dist.all_reduce(flat, async_op=True) for flat in self.flat]
        for work, flat in zip(works, self.flat):
            work.wait()
            flat.div_(self.ranks)


class DdpAdamw:
    @staticmethod
    def absent(options: argparse.Namespace) -> str | None:
        return None

    def __init__(self, options: argparse.Namespace, rank: int) -> None:
        import torch
        self.clip = options.clip
        self.buckets = Buckets(options, rank)
        self.masters = common.make_params(options, torch.float32)
        bf16 = options.dtype == "bf16"
        self.narrow = [master.detach().bfloat16() for master in self.masters] if bf16 else []
        for master, grad in zip(self.masters, self.buckets.grads):
            master.grad = torch.empty_like(master) if bf16 else grad
        self.optimizer = torch.optim.AdamW(self.masters, lr=common.LR, betas=common.BETAS,
                                           eps=options.eps, weight_decay=common.WEIGHT_DECAY,
                                           fused=True)

    def prepare(self) -> None:
        self.buckets.refill()

    def step(self) -> None:
        import torch
        self.buckets.average()
        if self.narrow:
            torch._foreach_copy_([master.grad for master in self.masters], self.buckets.grads)
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.masters, self.clip)
        self.optimizer.step()
        if self.narrow:
            torch._foreach_copy_(self.narrow, [master.detach() for master in self.masters])

    def params(self) -> list:
        return self.narrow or self.masters


if __name__ == "__main__":
    common.main(__doc__, DdpAdamw)
