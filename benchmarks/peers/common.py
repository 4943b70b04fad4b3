"""What the programs of the peers share: bench_step's options, ranks as processes that talk over
loopback, and the JSON.

A peer times what bench_step times: every rank has its own gradients; they are averaged over the
ranks, the parameters are updated, and every rank has the new ones. There is no backward pass. A
program is

  options = common.start(__doc__)   # ends here, saying that the peer is absent, without PyTorch
  import torch
  class Peer:
    def __init__(self, options, rank): ...
    def prepare(self): ...          # what belongs to the backward pass; not timed
    def step(self): ...             # timed
    def params(self): ...           # as this rank has them, in the order of the tensors
  common.run(options, Peer)

and exits with 1 where a result is wrong."""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NoReturn

UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


def count(text: str) -> int:
    """A whole number from 1, with Ki, Mi or Gi behind it or not."""
    unit = UNITS.get(text[-2:], 1)
    value = int(text[:-2] if unit > 1 else text) * unit
    if value < 1:
        raise ValueError
    return value


def parse(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--numel", type=count, default=32 << 20, help="elements in all [32Mi]")
    parser.add_argument("--tensors", type=count, default=32, help="as equal as can be [32]")
    parser.add_argument("--dtype",
                        choices=["fp32", "bf16"],
                        default="fp32",
                        help="of parameters and gradients; bf16 has fp32 masters [fp32]")
    parser.add_argument("--clip", type=float, default=0, help="highest gradient norm; 0: off [0]")
    parser.add_argument("--ranks", type=count, default=2, help="processes [2]")
    parser.add_argument("--threads", type=count, default=1, help="threads per rank [1]")
    parser.add_argument("--steps", type=count, default=10, help="repetitions that count [10]")
    parser.add_argument("--warmup", type=count, default=3, help="repetitions before them [3]")
    parser.add_argument("--json", metavar="FILE", help="where it goes [standard output]")
    options = parser.parse_args()
    if options.tensors > options.numel:
        parser.error("--tensors: more than the elements of --numel")
    return options


# ---- the JSON ----


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


def absent(options: argparse.Namespace, why: str) -> NoReturn:
    """Ends the program: this peer cannot be had here."""
    write({"absent": why}, options.json)
    sys.exit(0)


def report(options: argparse.Namespace, times_ms: list[float]) -> dict[str, Any]:
    import torch
    same = ["numel", "tensors", "clip", "threads", "steps", "warmup"]
    return {"torch": torch.__version__, "world_size": options.ranks,
            **{name: getattr(options, name) for name in same},
            "param_dtype": options.dtype, "grad_dtype": options.dtype,
            **spread("step_ms", times_ms)}  # yapf: disable


# ---- ranks ----


def start(description: str | None,
          huge_pages: bool = False,
          parser: Callable[[str | None], argparse.Namespace] = parse) -> argparse.Namespace:
    """huge_pages: where the kernel gives them to those that ask, as it does to zero1. A kernel
    alone is faster with them. parser: of options that are not those of parse()."""
    options = parser(description)
    if huge_pages:
        os.environ["THP_MEM_ALLOC_ENABLE"] = "1"
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    try:
        import torch
        import torch.distributed as dist
    except ImportError as error:
        absent(options, f"PyTorch cannot be imported: {error}")
    if not dist.is_available() or not dist.is_gloo_available():
        absent(options, f"PyTorch {torch.__version__} has no gloo")
    torch.set_num_threads(1)  # until ranks are forked: OpenMP's threads do not survive that
    return options


def need_cpu_adam(options: argparse.Namespace) -> None:
    """Ends the program without DeepSpeed's CPUAdam, which is compiled where it never was before. It
    logs, and prints: to standard error, here."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        from deepspeed.ops.op_builder import CPUAdamBuilder
        CPUAdamBuilder().load(verbose=False)
    except Exception as error:  # not installed, no compiler, not built: of several kinds
        why = f"DeepSpeed's CPUAdam cannot be had: {error}"
    else:
        why = None
    sys.stdout.flush()
    os.dup2(stdout, 1)
    os.close(stdout)
    if why:
        absent(options, why)


def measure(options: argparse.Namespace, subject: Any) -> list[float]:
    """Milliseconds of each step that counts, of the slowest rank."""
    import torch
    import torch.distributed as dist
    times = []
    for repetition in range(options.warmup + options.steps):
        subject.prepare()
        dist.barrier()
        begin = time.perf_counter()
        subject.step()
        elapsed = torch.tensor((time.perf_counter() - begin) * 1e3, dtype=torch.float64)
        dist.all_reduce(elapsed, op=dist.ReduceOp.MAX)
        if repetition >= options.warmup:
            times.append(float(elapsed))
    return times


def end_where(wrong: str | None, rank: int) -> None:
    """Ends this rank, and with it the program, where something is wrong."""
    if wrong:
        sys.exit(f"{os.path.basename(sys.argv[0])}: rank {rank}: {wrong}")


def time_peer(options: argparse.Namespace, rank: int, peer: type) -> dict[str, Any]:
    import torch

    import values
    subject = peer(options, rank)
    times = measure(options, subject)
    with torch.no_grad():
        end_where(values.check(options, subject.params()), rank)
    return report(options, times)


def run_rank(rank: int, options: argparse.Namespace, work: Callable[..., dict[str, Any]],
             folder: str) -> None:
    import torch
    import torch.distributed as dist
    torch.set_num_threads(options.threads)
    dist.init_process_group("gloo",
                            store=dist.FileStore(f"{folder}/store", options.ranks),
                            rank=rank,
                            world_size=options.ranks)
    result = work(options, rank)
    dist.barrier()
    if rank == 0:
        write(result, f"{folder}/result")
    dist.destroy_process_group()


def run_ranks(options: argparse.Namespace, work: Callable[..., dict[str, Any]]) -> None:
    """work(options, rank) in processes of their own; writes what rank 0's returns."""
    from torch import multiprocessing
    with tempfile.TemporaryDirectory() as folder:
        try:
            multiprocessing.start_processes(run_rank, (options, work, folder),
                                            options.ranks,
                                            start_method="fork")
        except (multiprocessing.ProcessRaisedException,
                multiprocessing.ProcessExitedException) as error:
            sys.exit(f"{os.path.basename(sys.argv[0])}: {error}")
        with open(f"{folder}/result", encoding="utf-8") as file:
            write(json.load(file), options.json)


def run(options: argparse.Namespace, peer: type) -> None:
    import values
    options.coef = values.clip_coef(options)
    options.eps = values.UNCLIPPED_EPS * options.coef
    run_ranks(options, functools.partial(time_peer, peer=peer))
