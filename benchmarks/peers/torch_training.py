#!/usr/bin/env python3
"""Trains one model of torch, a GPT of 32 Mi parameters, with each of several optimizers, which take
turns within one run: zero1.torch, DistributedDataParallel with AdamW, ZeroRedundancyOptimizer, FSDP2.

Two workloads. "train" is the GPT. "alone" is its parameters with a forward and backward that cost
nothing, since the gradients are there before: what is left is communication and update.

What zero1.torch costs over the calls of the library, in three ways. "over_parts": its training step,
less forward and backward alone, less the calls alone on the same tensors with the gradients in the
buffers. "over_by_hand": its training step, less that of a program which makes these calls itself around
the same forward and backward, with the model's parameters and gradients as views: zero_grad, and
autograd adds. "alone": its step of the second workload, less the calls, less an autograd that nothing
is hooked into; gradients come from memory there, which in training are still in a cache. And "copy":
every gradient into the library's buffers, as hooks do it, from memory, too.

Results are checked: those of "alone" by their values, those of the GPT against each other. Exits with
1 where one is wrong."""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import common


def parse(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, text in (
        ("blocks", 10, "of the GPT"), ("width", 512, "of its residual stream"),
        ("heads", 8, "of its attention"), ("vocabulary", 2048, "tokens that there are"),
        ("context", 64, "tokens of a sequence"), ("batch", 8, "sequences per rank"),
        ("ranks", 2, "processes"), ("threads", 1, "per rank"), ("rounds", 21, "of the GPT, that count"),
        ("steps", 1, "of a turn with it"),
        ("alone-rounds", 25, "without forward and backward, of one step each, that count")
    ):  # yapf: disable
        parser.add_argument(f"--{name}",
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
EPS = 1e-4  # of the GPT's AdamW: the size of a gradient shows in an update, its rounding does not
APART = 1e-3  # of the way of a training; a step less, or a sum in place of a mean, is 100 times that

Times = dict[str, list[float]]  # milliseconds of a step by name, one per round that counts


def turn(side: Any, batches: list[tuple[torch.Tensor, ...]]) -> float:
    """Milliseconds of a step, of the slowest rank."""
    dist.barrier()
    begin = time.perf_counter()
    for batch in batches:
        side.step(*batch)
    side.finish()
    elapsed = torch.tensor((time.perf_counter() - begin) * 1e3, dtype=torch.float64)
    dist.all_reduce(elapsed, op=dist.ReduceOp.MAX)
    return float(elapsed) / len(batches)


def take_turns(subjects: list[Any], rounds: int,
               batches_of: Callable[[int], list[tuple[torch.Tensor, ...]]],
               prepare: Callable[[Any], None] = lambda side: None) -> Times:
    """Each round begins with another side: none always comes after the same one."""
    times: Times = {side.name: [] for side in subjects}
    for number in range(WARMUP + rounds):
        batches, first = batches_of(number), number % len(subjects)
        for side in subjects[first:] + subjects[:first]:
            prepare(side)
            ms = turn(side, batches)
            if number >= WARMUP:
                times[side.name].append(ms)
    return times


def make(kinds: list[type], make_model: Callable[[], torch.nn.Module],
         eps: float) -> tuple[list[sides.Side], dict[str, str]]:
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
    def square(left: list[torch.Tensor], right: list[torch.Tensor]) -> float:
        return sum(float((a - b).double().square().sum()) for a, b in zip(left, right))

    return (square(found, like) / square(like, start))**0.5


def train(options: argparse.Namespace, rank: int) -> tuple[Times, dict[str, str]]:
    def batches_of(number: int) -> list[tuple[torch.Tensor, ...]]:
        first = number * options.steps
        return [models.batch(options, rank, step) for step in range(first, first + options.steps)]

    start = [param.detach() for param in models.Gpt(options).parameters()]
    trained, absent = make([*sides.SIDES, sides.ByHand, sides.Bare], lambda: models.Gpt(options), EPS)
    times = take_turns(trained, options.rounds, batches_of)
    results = {side.name: side.params() for side in trained if side.name != "bare"}
    for name, result in results.items():
        distance = apart(result, results["ddp_adamw"], start)
        common.end_where(
            None if distance <= APART else
            f"wrong result: {name} is {distance:.3g} of the way from where DDP is", rank)
    results.clear()
    for side in trained:
        side.close()
    return times, absent


# ---- without forward and backward ----


class Copy:
    """What hooks do with fresh gradients: these go into the library's buffers, and are freed."""
    name = "copy"

    def __init__(self, core: sides.Core) -> None:
        self.model, self.core = core.model, core.core
        self.finish = core.finish

    def step(self) -> None:
        index = 0
        for piece in self.model.blocks:
            while piece.grads:
                self.core.set_grad(index, piece.grads.pop(0).data_ptr())
                index += 1


def refill(side: Any) -> None:
    """What belongs to backward."""
    if isinstance(side, sides.Core):
        torch._foreach_copy_(side.grads, [grad for piece in side.model.blocks for grad in piece.kept])
    else:
        getattr(side.model, "module", side.model).refill()


def step_alone(options: argparse.Namespace, rank: int) -> Times:
    """Sets options.numel and what values.check takes."""
    kept = models.Kept(options, rank)
    options.numel, options.tensors = sum(kept.sizes), len(kept.sizes)
    options.dtype, options.coef, options.eps = "fp32", 1.0, values.UNCLIPPED_EPS
    options.warmup, options.steps = WARMUP, options.alone_rounds
    subjects, _ = make([*sides.SIDES, sides.Core, sides.Bare], lambda: models.Costless(kept),
                       options.eps)
    core = next(side for side in subjects if isinstance(side, sides.Core))
    times = take_turns([*subjects, Copy(core)], options.alone_rounds, lambda _: [()], refill)
    for side in subjects:
        if side.name != "bare":
            with torch.no_grad():
                wrong = values.check(options, [param.flatten() for param in side.params()])
            common.end_where(wrong and f"{side.name}: {wrong}", rank)
        side.close()
    return times


# ---- the report ----


def row_of(kind: type, trained: Times, alone: Times, absent: dict[str, str]) -> dict[str, Any]:
    """ratio: to zero1's in the same round."""
    name = kind.name
    row: dict[str, Any] = {"name": name, "label": kind.label}
    if name in absent:
        return {**row, "absent": absent[name]}
    for what, times in (("train", trained), ("alone", alone)):
        row |= common.spread(f"{what}_ms", times[name])
        ratios = [ms / ours for ms, ours in zip(times[name], times["zero1"])]
        row |= common.spread(f"{what}_ratio", ratios)
    return {**row, "steps_per_second": 1e3 / row["train_ms"]}


def overhead_of(trained: Times, alone: Times) -> dict[str, Any]:
    """In milliseconds, and in parts of a training step."""
    def parts(name: str, differences: list[float]) -> dict[str, Any]:
        step = common.spread("ms", trained["zero1"])["ms"]
        return {
            **common.spread(f"{name}_ms", differences),
            **common.spread(f"{name}_share", [ms / step for ms in differences])
        }

    core = common.spread("ms", alone["core"])["ms"]
    return {
        **parts("over_parts", [ours - bare - core for ours, bare in zip(trained["zero1"], trained["bare"])]),
        **parts("over_by_hand", [ours - by_hand for ours, by_hand in zip(trained["zero1"], trained["by_hand"])]),
        **parts("alone", [ours - core - bare for ours, core, bare in zip(alone["zero1"], alone["core"],
                                                                          alone["bare"])]),
        **parts("copy", alone["copy"]),
        **common.spread("by_hand_ms", trained["by_hand"]),
        **common.spread("bare_ms", trained["bare"]),
        **common.spread("core_ms", alone["core"]),
    }  # yapf: disable


def cpu_model() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")),
                    platform.machine())


def work(options: argparse.Namespace, rank: int) -> dict[str, Any]:
    given = {name: value for name, value in vars(options).items() if name != "json"}
    trained, absent = train(options, rank)
    alone = step_alone(options, rank)
    return {
        "part": "torch", **given, "numel": options.numel, "tensors": options.tensors,
        "subjects": [row_of(kind, trained, alone, absent) for kind in sides.SIDES],
        "overhead": overhead_of(trained, alone),
        "torch": torch.__version__, "python": platform.python_version(), "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "real_time": os.sched_getscheduler(0) != os.SCHED_OTHER
    }  # yapf: disable


common.run_ranks(options, work)
