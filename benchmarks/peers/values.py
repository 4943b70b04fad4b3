"""The parameters and gradients that peers are given, which are bench_step's, and the check of what
they make of them.

options.eps is large, so that the size of a gradient shows in the update: with a small one a sum in
place of the mean would not be noticed. Its value costs nothing."""

from __future__ import annotations

import argparse
import bisect
import itertools
import math
from collections.abc import Iterator

import torch

LR, BETAS, WEIGHT_DECAY = 1e-3, (0.9, 0.999), 0.01
UNCLIPPED_EPS = 1e-2
PARAM_SEED, PARAM_SCALE, GRAD_SCALE = 12345, 2.0**-9, 2.0**-7  # as in bench_subject.c
CHUNK = 1 << 22
SAMPLES = 96

# ---- values: a whole number from -128 to 127 over a power of two ----


def begin_of(options: argparse.Namespace, tensor: int) -> int:
    """10 elements in 3 tensors begin at 0, 4, 7."""
    each, more = divmod(options.numel, options.tensors)
    return tensor * each + min(tensor, more)


def scattered(seed: int, flat):
    """flat: an int64 tensor, or an int."""
    x = flat * 2654435761 + seed * 0x9e3779b9 & 0xffffffff
    x = (x ^ x >> 15) * 0x2c1b3c6d & 0xffffffff
    return (x >> 24 ^ 0x80) - 0x80


def pieces(begin: int, end: int) -> Iterator[torch.Tensor]:
    for at in range(begin, end, CHUNK):
        yield torch.arange(at, min(at + CHUNK, end), dtype=torch.int64)


def fill(sizes: list[int], dtype: torch.dtype, seed: int, scale: float) -> list[torch.Tensor]:
    """Tensors of these sizes, one behind the other."""
    tensors, begin = [], 0
    for size in sizes:
        tensor = torch.empty(size, dtype=dtype)
        for flat in pieces(begin, begin + size):
            at = int(flat[0]) - begin
            tensor[at:at + flat.numel()].copy_(scattered(seed, flat).float().mul_(scale))
        tensors.append(tensor)
        begin += size
    return tensors


def make(options: argparse.Namespace, dtype: torch.dtype, seed: int,
         scale: float) -> list[torch.Tensor]:
    sizes = [
        begin_of(options, index + 1) - begin_of(options, index) for index in range(options.tensors)
    ]
    return fill(sizes, dtype, seed, scale)


def make_params(options: argparse.Namespace, dtype: torch.dtype) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(tensor) for tensor in make(options, dtype, PARAM_SEED, PARAM_SCALE)]


def dtype_of(options: argparse.Namespace) -> torch.dtype:
    return torch.bfloat16 if options.dtype == "bf16" else torch.float32


def make_grads(options: argparse.Namespace, rank: int) -> list[torch.Tensor]:
    return make(options, dtype_of(options), rank, GRAD_SCALE)


def mean_grad(flat, ranks: int):
    return sum(scattered(rank, flat) for rank in range(ranks)) * GRAD_SCALE / ranks


def clip_coef(options: argparse.Namespace) -> float:
    if not options.clip:
        return 1.0
    squares = sum(
        float(mean_grad(flat, options.ranks).double().square().sum())
        for flat in pieces(0, options.numel))
    return min(1.0, options.clip / (math.sqrt(squares) + 1e-6))


def adamw_options(options: argparse.Namespace) -> dict:
    return {"lr": LR, "betas": BETAS, "eps": options.eps, "weight_decay": WEIGHT_DECAY}


# ---- the check ----


def adamw(param: float, grad: float, eps: float, steps: int) -> float:
    """In double, with the same gradient at every step."""
    exp_avg = exp_avg_sq = 0.0
    for step in range(1, steps + 1):
        exp_avg = BETAS[0] * exp_avg + (1 - BETAS[0]) * grad
        exp_avg_sq = BETAS[1] * exp_avg_sq + (1 - BETAS[1]) * grad * grad
        denominator = math.sqrt(exp_avg_sq / (1 - BETAS[1]**step)) + eps
        param -= LR * WEIGHT_DECAY * param + LR * exp_avg / (1 - BETAS[0]**step) / denominator
    return param


def tolerance(param: float, steps: int) -> float:
    """Of a parameter in fp32, in units u = 2^-24: a step rounds the decayed and the new parameter,
    2 of it; of the update, at most lr, 5 per step before it and 8 for the moments, the quotient
    and a gradient that is rounded, and what 1 - beta^step loses where powers of beta are kept in
    fp32: step + 2 of 1, which the root halves for the second moment."""
    updates = sum(5 * step + 8 + (step + 2) * (1 / (1 - BETAS[0]**step) + 0.5 /
                                               (1 - BETAS[1]**step))
                  for step in range(1, steps + 1))
    return 2.0**-24 * (2 * steps * abs(param) + LR * updates)


def grad_rounding(options: argparse.Namespace) -> float:
    """How far a gradient may be off, in parts of the mean of the contributions' sizes: each sum of
    bf16 gradients and the mean are rounded to bf16, but those of two ranks fit into it; a norm's
    fp32 squares may be added one by one, in lanes and blocks: 1e-4."""
    sums = 2.0**-8 * options.ranks if options.dtype == "bf16" and options.ranks > 2 else 0.0
    return sums + (1e-4 if options.coef < 1 else 0.0)


def check_element(options: argparse.Namespace, flat: int, found: float) -> str | None:
    """What is wrong with a parameter after all steps."""
    ranks, steps = options.ranks, options.warmup + options.steps
    grad = mean_grad(flat, ranks) * options.coef
    size = sum(abs(scattered(rank, flat)) for rank in range(ranks)) * GRAD_SCALE / ranks
    off = grad_rounding(options) * size * options.coef
    start = scattered(PARAM_SEED, flat) * PARAM_SCALE
    low, expected, high = (adamw(start, grad + by, options.eps, steps) for by in (off, 0, -off))
    bound = tolerance(start, steps) + max(high - expected, expected - low)
    if options.dtype == "bf16":
        bound += 2.0**-8 * (abs(expected) + bound)
    if abs(found - expected) <= bound:
        return None
    return f"wrong result: element {flat} is {found:.9g}, not {expected:.9g} (within {bound:.2g})"


def check(options: argparse.Namespace, params: list[torch.Tensor]) -> str | None:
    """What is wrong with one element in each of SAMPLES equal parts. params: of one dimension."""
    ends = list(itertools.accumulate(param.numel() for param in params))
    samples = min(SAMPLES, options.numel)
    for sample in range(samples):
        begin, end = (options.numel * i // samples for i in (sample, sample + 1))
        flat = begin + (sample * 7919) % (end - begin)
        tensor = bisect.bisect_right(ends, flat)
        found = float(params[tensor][flat - (ends[tensor] - params[tensor].numel())])
        wrong = check_element(options, flat, found)
        if wrong:
            return wrong
    return None
