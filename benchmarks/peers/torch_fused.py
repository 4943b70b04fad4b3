#!/usr/bin/env python3
"""Times torch.optim.AdamW(fused=True) on the CPU in one process (--ranks 1): with fp32 the kernel
alone; with bf16 and --clip with what goes round it: gradients cast to fp32, their norm, clipping,
the new values cast to bf16."""

import functools

import common

options = common.start(__doc__, huge_pages=True)

import torch

from masters import Kernel

common.run(
    options,
    functools.partial(Kernel, make_optimizer=functools.partial(torch.optim.AdamW, fused=True)))
