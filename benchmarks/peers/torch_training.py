#!/usr/bin/env python3
"""Trains one model of torch, a GPT of about 32 Mi parameters, with each of several optimizers, which
take turns within one run: DistributedDataParallel with AdamW, ZeroRedundancyOptimizer, FSDP2, and
zero1.torch.

Two workloads: the GPT; and the same parameters with a forward and backward that cost nothing, since
the gradients are there before: what is left is communication and update. And what zero1.torch costs
over the calls of the library: with the second workload, its step less the library's own on the same
tensors and less an autograd that nothing is hooked into. Results are checked: those of the second
workload by their exact values, those of the GPT against each other. Exits with 1 where one is
wrong."""

from __future__ import annotations

import argparse
import time
from typing import Any

import common


def parse(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, text in (
        ("blocks", 10, "of the GPT"), ("width", 512, "of its residual stream"),
        ("heads", 8, "of its attention"), ("vocabulary", 2048, "tokens that there are"),
        ("context", 64, "tokens of a sequence"), ("batch", 4, "sequences per rank"),
        ("ranks", 2, "processes"), ("threads", 1, "per rank"), ("rounds", 7, "that count"),
        ("steps", 2, "of a turn with the GPT"),
        ("costless_rounds", 25, "that count, of one step each, without it")
    ):  # yapf: disable
        parser.add_argument(f"--{name.replace('_', '-')}",
                            type=common.count,
                            default=default,
                            help=f"{text} [{default}]")
    parser.add_argument("--json", metavar="FILE", help="where it goes [standard output]")
    options = parser.parse_args()
    if options.width % options.heads:
        parser.error("--heads: no divisor of --width")
    return options


options = common.start(__doc__, parser=parse)

import torch
import torch.distributed as dist

import training_models as models
import training_sides as sides
import values

WARMUP = 2  # rounds before those that count
EPS = 1e-4  # of the GPT: above the rounding of its gradients, which an update divided by it shows
APART = 1e-3  # a step that is missing, or a sum in place of a mean, is 100 times that


def turn(side: sides.Side, batches: list[tuple[torch.Tensor, ...]]) -> float:
    """Milliseconds of a step, of the slowest rank."""
    dist.barrier()
    begin = time.perf_counter()
    for batch in batches:
        side.step(*batch)
    side.finish()
    elapsed = torch.tensor((time.perf_counter() - begin) * 1e3, dtype=torch.float64)
    dist.all_reduce(elapsed, op=dist.ReduceOp.MAX)
    return float(elapsed) / len(batches)


def take_turns(subjects: list[sides.Side], rounds: int, batches_of, prepare=lambda side: None
               ) -> dict[str, list[float]]:
    """Milliseconds by name, a number per round that counts. Each round begins with another side."""
    times: dict[str, list[float]] = {side.name: [] for side in subjects}
    for number in range(WARMUP + rounds):
        batches = batches_of(number)
        first = number % len(subjects)
        for side in subjects[first:] + subjects[:first]:
            prepare(side)
            ms = turn(side, batches)
            if number >= WARMUP:
                times[side.name].append(ms)
    return times


def make(kinds: list[type], make_model, eps: float) -> tuple[list[sides.Side], dict[str, str]]:
    made, absent = [], {}
    for kind in kinds:
        try:
            made.append(kind(make_model(), eps))
        except sides.Absent as why:
            absent[kind.name] = str(why)
    return made, absent


# ---- the GPT ----


def apart(found: list[torch.Tensor], like: list[torch.Tensor], start: list[torch.Tensor]) -> float:
    """How far two results of a training are from each other, in parts of its way."""
    def square(left, right) -> float:
        return sum(float((a - b).double().square().sum()) for a, b in zip(left, right))

    return (square(found, like) / square(like, start))**0.5


def train(options: argparse.Namespace, rank: int) -> tuple[dict[str, list[float]], dict[str, str]]:
    start = [param.detach() for param in models.Gpt(options).parameters()]
    trained, absent = make([*sides.SIDES, sides.Bare], lambda: models.Gpt(options), EPS)
    times = take_turns(
        trained, options.rounds, lambda number:
        [models.batch(options, rank, number * options.steps + step) for step in range(options.steps)])
    by_name = {side.name: side for side in trained if side.name != "bare"}
    like = by_name["ddp_adamw"].params()
    for name, side in by_name.items():
        distance = apart(side.params(), like, start)
        common.end_where(
            None if distance <= APART else
            f"wrong result: {name} is {distance:.3g} of the way from where DDP is", rank)
    for side in trained:
        side.close()
    return times, absent


# ---- without it ----


class Copy:
    """What hooks cannot do without: fresh gradients go into the library's buffers."""
    name = "copy"

    def __init__(self, core: sides.Core) -> None:
        self.model, self.grads = core.model, core.grads

    def step(self) -> None:
        fresh = [grad for piece in self.model.blocks for grad in piece.grads]
        for piece in self.model.blocks:
            piece.grads.clear()
        for grad in self.grads:
            grad.copy_(fresh.pop(0))

    def finish(self) -> None:
        pass


def refill(side: Any) -> None:
    """What belongs to backward."""
    if isinstance(side, sides.Core):
        torch._foreach_copy_(side.grads, [grad for piece in side.model.blocks for grad in piece.kept])
    else:
        getattr(side.model, "module", side.model).refill()


def step_costless(options: argparse.Namespace, rank: int) -> tuple[dict[str, list[float]], int]:
    kept = models.Kept(options, rank)
    options.numel, options.dtype, options.coef = sum(kept.sizes), "fp32", 1.0
    options.eps, options.warmup, options.steps = values.UNCLIPPED_EPS, WARMUP, options.costless_rounds
    subjects, _ = make([*sides.SIDES, sides.Core, sides.Bare], lambda: models.Costless(kept),
                       options.eps)
    core = next(side for side in subjects if isinstance(side, sides.Core))
    times = take_turns([*subjects, Copy(core)], options.costless_rounds, lambda _: [()], refill)
    for side in subjects:
        if side.name == "bare":
            continue
        with torch.no_grad():
            wrong = values.check(options, [param.flatten() for param in side.params()])
        common.end_where(wrong and f"{side.name}: {wrong}", rank)
        side.close()
    return times, options.numel


def work(options: argparse.Namespace, rank: int) -> dict[str, Any]:
    of_training, absent = train(options, rank)
    costless, numel = step_costless(options, rank)
    import statistics
    for name in costless:
        a=of_training.get(name)
        if rank==0: print(name, a and round(statistics.median(a),1), round(statistics.median(costless[name]),2), absent.get(name,""))
    return {}


common.run_ranks(options, work)
