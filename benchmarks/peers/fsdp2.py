#!/usr/bin/env python3
"""Times FSDP2 (fully_shard) over gloo with reshard_after_forward=False, and torch's AdamW on the shards:
gradients reduced and scattered in backward, the update, parameters gathered before the next forward.

With bf16, parameters are gathered and gradients reduced in bf16, and the shards are fp32."""

from __future__ import annotations

import argparse

import common


class Fsdp2:
    @staticmethod
    def absent(options: argparse.Namespace) -> str | None:
        try:
            from torch.distributed.fsdp import fully_shard as _
        except ImportError as error:
            return f"this torch has no fully_shard: {error}"
        return None

    def __init__(self, options: argparse.Namespace, rank: int) -> None:
        import torch
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        from given import Given
        self.clip = options.clip
        self.model = Given(options, rank, torch.float32)
        bf16 = torch.bfloat16 if options.dtype == "bf16" else None
        fully_shard(self.model, mesh=init_device_mesh("cpu", (options.ranks,)),
                    reshard_after_forward=False,
                    mp_policy=MixedPrecisionPolicy(param_dtype=bf16, reduce_dtype=bf16))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=common.LR, betas=common.BETAS,
                                           eps=options.eps, weight_decay=common.WEIGHT_DECAY,
                                           fused=True)
        self.loss = self.model()

    def prepare(self) -> None:
        self.model.refill()

    def step(self) -> None:
        import torch
        self.loss.backward()
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.loss = self.model()

    def params(self) -> list:
        return list(self.model.tensors)


if __name__ == "__main__":
    common.main(__doc__, Fsdp2)
