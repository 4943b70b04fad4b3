"""What the programs of the peers share: bench_step's options and values, ranks as processes that talk
over loopback, a check of every result, and the JSON.

A peer times what bench_step times: every rank has its own gradients; they are averaged over the ranks,
the parameters are updated, and every rank has the new ones. There is no backward pass. A peer is a
class with

  absent(options)  static: None, or why it cannot run here
  __init__(options, rank)
  prepare()        what belongs to the backward pass; not timed
  step()           timed
  params()         the parameters as this rank has them, in the order of the tensors

options.eps is large, so that the size of a gradient shows in the update: with a small one a sum in place
of the mean would not be noticed. Its value costs nothing."""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

LR, BETAS, WEIGHT_DECAY = 1e-3, (0.9, 0.999), 0.01
UNCLIPPED_EPS = 1e-2
SAMPLES = 96
PARAM_SEED, PARAM_SCALE, GRAD_SCALE = 12345, 2.0**-9, 2.0**-7  # as in bench_subject.c
CHUNK = 1 << 22
UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}

# ---- options ----


def count(text: str) -> int:
    """A whole number from 1, with Ki, Mi or Gi behind it or not."""
    unit = UNITS.get(text[-2:], 1)
    value = int(text[:-2] if unit > 1 else text) * unit
    if value < 1:
        raise ValueError
    return value


def parser_of(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--numel", type=count, default=32 << 20, help="elements in all [32Mi]")
    parser.add_argument("--tensors", type=count, default=32, help="as equal as can be [32]")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32",
                        help="of parameters and gradients; bf16 has fp32 masters [fp32]")
    parser.add_argument("--clip", type=float, default=0, help="highest gradient norm; 0: off [0]")
    parser.add_argument("--threads", type=count, default=1, help="threads per rank [1]")
    parser.add_argument("--steps", type=count, default=10, help="repetitions that count [10]")
    parser.add_argument("--warmup", type=count, default=3, help="repetitions before them [3]")
    parser.add_argument("--json", metavar="FILE", help="where it goes [standard output]")
    return parser


def spread(name: str, values: list[float]) -> dict[str, float]:
    """The median, and the quartiles, under the names that bench_json_spread gives them."""
    twice = values * 2 if len(values) == 1 else values
    q1, median, q3 = statistics.quantiles(twice, n=4, method="inclusive")
    return {name: median, f"{name}_q1": q1, f"{name}_q3": q3}


def write(result: dict[str, Any], path: str | None) -> None:
    text = json.dumps(result, indent=1) + "\n"
    if not path:
        sys.stdout.write(text)
        return
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


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


def chunks(seed: int, scale: float, begin: int, end: int) -> Iterator[tuple[int, Any]]:
    """(where, fp32 values) from begin to end, piece by piece."""
    import torch
    for at in range(begin, end, CHUNK):
        flat = torch.arange(at, min(at + CHUNK, end), dtype=torch.int64)
        yield at, scattered(seed, flat).float().mul_(scale)


def fill(tensors: list[Any], options: argparse.Namespace, seed: int, scale: float) -> list[Any]:
    for index, tensor in enumerate(tensors):
        begin = begin_of(options, index)
        for at, values in chunks(seed, scale, begin, begin_of(options, index + 1)):
            tensor[at - begin:at - begin + values.numel()].copy_(values)
    return tensors


def empty(options: argparse.Namespace, dtype: Any) -> list[Any]:
    import torch
    return [torch.empty(begin_of(options, i + 1) - begin_of(options, i), dtype=dtype)
            for i in range(options.tensors)]


def make_params(options: argparse.Namespace, dtype: Any) -> list[Any]:
    import torch
    tensors = fill(empty(options, dtype), options, PARAM_SEED, PARAM_SCALE)
    return [torch.nn.Parameter(tensor) for tensor in tensors]


def dtype_of(options: argparse.Namespace) -> Any:
    import torch
    return torch.bfloat16 if options.dtype == "bf16" else torch.float32


def make_grads(options: argparse.Namespace, rank: int) -> list[Any]:
    return fill(empty(options, dtype_of(options)), options, rank, GRAD_SCALE)


# ---- the check ----


def mean_grad(flat: Any, ranks: int) -> Any:
    return sum(scattered(rank, flat) for rank in range(ranks)) * GRAD_SCALE / ranks


def clip_coef(options: argparse.Namespace, ranks: int) -> float:
    """With one thread: OpenMP's do not survive a fork."""
    import torch
    torch.set_num_threads(1)
    if not options.clip:
        return 1.0
    squares = 0.0
    for at in range(0, options.numel, CHUNK):
        flat = torch.arange(at, min(at + CHUNK, options.numel), dtype=torch.int64)
        squares += float(mean_grad(flat, ranks).double().square().sum())
    return min(1.0, options.clip / (math.sqrt(squares) + 1e-6))


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
    """Of a parameter in fp32, in units u = 2^-24: a step rounds the decayed and the new parameter, 2 of
    it; of the update, at most lr, 5 per step before it and 8 for the moments, the quotient and a
    gradient that is rounded, and what 1 - beta^step loses where powers of beta are kept in fp32: step
    + 2 of 1, which the root halves for the second moment."""
    updates = sum(5 * step + 8 + (step + 2) * (1 / (1 - BETAS[0]**step) + 0.5 / (1 - BETAS[1]**step))
                  for step in range(1, steps + 1))
    return 2.0**-24 * (2 * steps * abs(param) + LR * updates)


def check(options: argparse.Namespace, ranks: int, params: list[Any]) -> None:
    """One element in each of SAMPLES equal parts; AssertionError says which is wrong."""
    steps, coef = options.warmup + options.steps, options.coef
    # Each sum of bf16 gradients, and the mean, is rounded to bf16; those of two ranks fit into it.
    rounding = 2.0**-8 * ranks if options.dtype == "bf16" and ranks > 2 else 0.0
    # The norm, of fp32 squares that may be added one by one in lanes and blocks, to 1e-4.
    rounding += 1e-4 if coef < 1 else 0.0
    samples = min(SAMPLES, options.numel)
    for sample in range(samples):
        begin, end = (options.numel * i // samples for i in (sample, sample + 1))
        flat = begin + (sample * 7919) % (end - begin)
        tensor = next(i for i in range(options.tensors) if flat < begin_of(options, i + 1))
        found = float(params[tensor][flat - begin_of(options, tensor)])
        grad = mean_grad(flat, ranks) * coef
        most = sum(abs(scattered(rank, flat)) for rank in range(ranks)) * GRAD_SCALE / ranks * coef
        start = scattered(PARAM_SEED, flat) * PARAM_SCALE
        low, expected, high = (adamw(start, grad + sign * rounding * most, options.eps, steps)
                               for sign in (1, 0, -1))
        bound = tolerance(start, steps) + max(high - expected, expected - low)
        if options.dtype == "bf16":
            bound += 2.0**-8 * (abs(expected) + bound)
        assert abs(found - expected) <= bound, (
            f"wrong result: element {flat} is {found:.9g}, not {expected:.9g} (within {bound:.2g})")


# ---- ranks ----


def run_rank(rank: int, options: argparse.Namespace, peer: type, folder: str) -> None:
    import torch
    import torch.distributed as dist
    torch.set_num_threads(options.threads)
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", options.ranks), rank=rank,
                            world_size=options.ranks)
    subject = peer(options, rank)
    times = []
    for repetition in range(options.warmup + options.steps):
        subject.prepare()
        dist.barrier()
        begin = time.perf_counter()
        subject.step()
        elapsed = torch.tensor([(time.perf_counter() - begin) * 1e3], dtype=torch.float64)
        dist.all_reduce(elapsed, op=dist.ReduceOp.MAX)
        if repetition >= options.warmup:
            times.append(float(elapsed))
    with torch.no_grad():
        check(options, options.ranks, subject.params())
    dist.barrier()
    if rank == 0:
        write({**facts(options), "world_size": options.ranks, **spread("step_ms", times)},
              f"{folder}/result")
    dist.destroy_process_group()


def facts(options: argparse.Namespace) -> dict[str, Any]:
    import torch
    keys = ["numel", "tensors", "clip", "threads", "steps", "warmup"]
    return {"torch": torch.__version__, **{key: getattr(options, key) for key in keys},
            "param_dtype": options.dtype, "grad_dtype": options.dtype}


def absent_torch() -> str | None:
    try:
        import torch
        import torch.distributed as dist
    except ImportError as error:
        return f"PyTorch cannot be imported: {error}"
    return None if dist.is_available() and dist.is_gloo_available() else f"{torch.__version__}: no gloo"


def absent_deepspeed() -> str | None:
    """Its warnings would come between what is written."""
    import logging
    logging.disable(logging.WARNING)
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        import deepspeed
        from deepspeed.ops.op_builder import CPUAdamBuilder
        CPUAdamBuilder().load(verbose=False)
    except Exception as error:  # not installed, not built, no compiler: of several kinds
        return f"DeepSpeed's CPUAdam cannot be had: {error}"
    return None if deepspeed else "DeepSpeed is empty"


def main(description: str | None, peer: type) -> None:
    parser = parser_of(description)
    parser.add_argument("--ranks", type=count, default=2, help="processes [2]")
    options = parser.parse_args()
    if options.tensors > options.numel:
        parser.error("--tensors: more than the elements of --numel")
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    why = absent_torch() or peer.absent(options)
    if why:
        write({"absent": why}, options.json)
        return
    import torch.multiprocessing as multiprocessing
    options.coef = clip_coef(options, options.ranks)
    options.eps = UNCLIPPED_EPS * options.coef
    with tempfile.TemporaryDirectory() as folder:
        try:
            multiprocessing.start_processes(run_rank, (options, peer, folder), options.ranks,
                                            start_method="fork")
        except multiprocessing.ProcessRaisedException as error:
            sys.exit(f"{os.path.basename(sys.argv[0])}: {error}")
        with open(f"{folder}/result", encoding="utf-8") as file:
            write(json.load(file), options.json)
