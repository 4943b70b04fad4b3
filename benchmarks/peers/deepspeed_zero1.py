#!/usr/bin/env python3
"""Times DeepSpeed's ZeRO stage 1 on the CPU over gloo, with its own CPUAdam: backward, which
reduces the gradients, and step, which updates each rank's part and gathers the parameters.

With bf16 the masters are fp32."""

import os

import common

options = common.start(__doc__)
common.need_cpu_adam(options)

import deepspeed
import torch
from deepspeed.ops.adam import DeepSpeedCPUAdam

import values
from given import Given


class DeepspeedZero1:
    def __init__(self, options, rank: int) -> None:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(options.ranks))
        deepspeed.init_distributed("gloo", auto_mpi_discovery=False)
        self.model = Given(options, rank, values.dtype_of(options))
        optimizer = DeepSpeedCPUAdam(self.model.parameters(),
                                     adamw_mode=True,
                                     **values.adamw_options(options))
        config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 1},
                  "gradient_clipping": options.clip,
                  "bf16": {"enabled": options.dtype == "bf16"}}  # yapf: disable
        self.engine, *_ = deepspeed.initialize(model=self.model, optimizer=optimizer, config=config)

    def prepare(self) -> None:
        self.model.refill()
        self.loss = self.engine()

    def step(self) -> None:
        self.engine.backward(self.loss)
        self.engine.step()

    def params(self) -> list[torch.Tensor]:
        return list(self.model.tensors)


common.run(options, DeepspeedZero1)
