#!/usr/bin/env python3
"""Times DeepSpeed's ZeRO stage 1 on the CPU over gloo, with its own CPUAdam: backward, which reduces the
gradients, and step, which updates each rank's part and gathers the parameters.

With bf16 the masters are fp32."""

from __future__ import annotations

import argparse
import os

import common


class DeepspeedZero1:
    @staticmethod
    def absent(options: argparse.Namespace) -> str | None:
        return common.absent_deepspeed()

    def __init__(self, options: argparse.Namespace, rank: int) -> None:
        import deepspeed
        import torch
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        from given import Given
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(options.ranks))
        deepspeed.init_distributed("gloo", auto_mpi_discovery=False)
        self.model = Given(options, rank, common.dtype_of(options))
        optimizer = DeepSpeedCPUAdam(self.model.parameters(), lr=common.LR, betas=common.BETAS,
                                     eps=options.eps, weight_decay=common.WEIGHT_DECAY,
                                     adamw_mode=True)
        config = {
            "train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 1},
            "gradient_clipping": options.clip, "bf16": {"enabled": options.dtype == "bf16"},
            "zero_force_ds_cpu_optimizer": False,
        }  # yapf: disable
        self.engine, *_ = deepspeed.initialize(model=self.model, optimizer=optimizer, config=config)

    def prepare(self) -> None:
        self.model.refill()
        self.loss = self.engine()

    def step(self) -> None:
        self.engine.backward(self.loss)
        self.engine.step()

    def params(self) -> list:
        return list(self.model.tensors)


if __name__ == "__main__":
    common.main(__doc__, DeepspeedZero1)
