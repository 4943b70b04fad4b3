#!/usr/bin/env python3
"""Times FSDP2 (fully_shard) over gloo with reshard_after_forward=False and torch's fused AdamW on
the shards: gradients reduced and scattered in backward, the update, parameters gathered before the
next forward. The parameters are one group.

With bf16, parameters are gathered and gradients reduced in bf16, and the shards are fp32."""

import common

options = common.start(__doc__)

import torch
from torch.distributed.device_mesh import init_device_mesh

try:
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
except ImportError as error:
    common.absent(options, f"PyTorch {torch.__version__} has no fully_shard: {error}")

import values
from given import Given


class Fsdp2:
    def __init__(self, options, rank: int) -> None:
        self.clip = options.clip
        self.model = Given(options, rank, torch.float32)
        bf16 = torch.bfloat16 if options.dtype == "bf16" else None
        fully_shard(self.model,
                    mesh=init_device_mesh("cpu", (options.ranks, )),
                    reshard_after_forward=False,
                    mp_policy=MixedPrecisionPolicy(param_dtype=bf16, reduce_dtype=bf16))
        self.optimizer = torch.optim.AdamW(self.model.parameters(),
                                           fused=True,
                                           **values.adamw_options(options))
        self.loss = self.model()
        self.prepare = self.model.refill

    def step(self) -> None:
        self.loss.backward()
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.loss = self.model()

    def params(self) -> list[torch.Tensor]:
        return list(self.model.tensors)


common.run(options, Fsdp2)
