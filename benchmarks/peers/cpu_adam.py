#!/usr/bin/env python3
"""Times DeepSpeed's CPUAdam in one process (--ranks 1): with fp32 the kernel alone; with bf16 and
--clip what its users pay for besides: gradients cast to fp32, their norm, clipping, the new values
cast to bf16."""

import functools

import common

options = common.start(__doc__, huge_pages=True)
common.need_cpu_adam(options)

from deepspeed.ops.adam import DeepSpeedCPUAdam

from masters import Kernel

common.run(
    options,
    functools.partial(Kernel, make_optimizer=functools.partial(DeepSpeedCPUAdam, adamw_mode=True)))
