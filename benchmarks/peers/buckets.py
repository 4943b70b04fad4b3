"""Gradients as DistributedDataParallel has them: views of buckets of 25 MiB, which are reduced all
at once."""

from __future__ import annotations

import argparse

import torch
import torch.distributed as dist

import values

BUCKET_BYTES = 25 << 20


def split(tensors: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    """In order, as many to a bucket as fit into it, or one that does not."""
    buckets: list[list[torch.Tensor]] = []
    room = -1
    for tensor in tensors:
        if tensor.nbytes > room:
            buckets.append([])
            room = BUCKET_BYTES
        buckets[-1].append(tensor)
        room -= tensor.nbytes
    return buckets


class Buckets:
    def __init__(self, options: argparse.Namespace, rank: int) -> None:
        self.ranks = options.ranks
        self.given = values.make_grads(options, rank)
        self.flat: list[torch.Tensor] = []
        self.grads: list[torch.Tensor] = []
        for bucket in split(self.given):
            sizes = [tensor.numel() for tensor in bucket]
            self.flat.append(torch.empty(sum(sizes), dtype=bucket[0].dtype))
            self.grads += self.flat[-1].split(sizes)

    def refill(self) -> None:
        """What a backward pass leaves there."""
        torch._foreach_copy_(self.grads, self.given)

    def average(self) -> None:
        works = [dist.all_reduce(flat, async_op=True) for flat in self.flat]
        for work, flat in zip(works, self.flat):
            work.wait()
            flat.div_(self.ranks)
