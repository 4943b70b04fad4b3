#!/usr/bin/env python3
"""Compares a step, or the update kernel, with what a user would take instead, and writes one JSON
file.

Short runs take turns, round by round: ours, a peer, ours, the next peer, ..., ours. A peer's ratio
is its time over the mean of ours just before and just after it, so that a drift of the machine
drops out; the median and the quartiles of the rounds are kept. A peer that cannot be had is
reported with the reason. Every run checks what it computes; where one finds something wrong, so
does this: it exits with 1."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))

import until_stopped
from common import count, spread, write

TIMEOUT_S = 600
MACHINE = ["cpu", "cores", "memory_gib", "kernel", "compiler", "mpi", "isa"]


@dataclasses.dataclass(frozen=True)
class Case:
    numel: int
    tensors: int = 32
    dtype: str = "fp32"
    clip: float = 0
    ranks: int = 2
    threads: int = 1
    steps: int = 5
    warmup: int = 2

    def options(self) -> list[str]:
        """What bench_step and the peers both know."""
        names = ["numel", "tensors", "clip", "threads", "steps", "warmup"]
        return [text for name in names for text in (f"--{name}", str(getattr(self, name)))]


@dataclasses.dataclass(frozen=True)
class Subject:
    name: str
    label: str
    run: Callable[[Case], dict[str, Any]]  # {"absent": why}, or "ms" and, for some, "ratio"


# ---- runs ----


def run(command: list[str]) -> dict[str, Any]:
    """The object that a command writes to --json FILE. Ends the program where it fails."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        process = subprocess.Popen([*command, "--json", file.name],
                                   stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT,
                                   text=True,
                                   start_new_session=True)
        try:
            output, _ = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output = f"{process.communicate()[0]}\nafter {TIMEOUT_S} s: no end"
        except BaseException:  # somebody ends this program: nothing that it started stays
            os.killpg(process.pid, signal.SIGKILL)
            raise
        if process.returncode != 0:
            sys.exit(f"compare: {' '.join(command)} has failed:\n{output}")
        return json.load(open(file.name, encoding="utf-8"))


def mpirun(ranks: int) -> list[str]:
    # mpirun refuses root, who one is in a container, unless told otherwise.
    os.environ.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    command = ["mpirun", "-n", str(ranks)]
    if ranks <= len(os.sched_getaffinity(0)):
        return command
    return [*command, "--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"]


def bench_step(build: pathlib.Path, case: Case, *further: str) -> dict[str, Any]:
    return run([
        *mpirun(case.ranks),
        str(build / "benchmarks/bench_step"), *case.options(), "--param-dtype", case.dtype,
        "--grad-dtype", case.dtype, "--no-limit", *further
    ])


def our_step(build: pathlib.Path, case: Case) -> dict[str, Any]:
    result = bench_step(build, case, "--no-baseline")
    return {"ms": result["step_ms"], "machine": {key: result[key] for key in MACHINE}}


def textbook(build: pathlib.Path, case: Case) -> dict[str, Any]:
    """Repetition by repetition beside ours, within one run."""
    result = bench_step(build, case)
    return {"ms": result["mpi_baseline_ms"], "ratio": result["speedup_vs_mpi"]}


def our_kernel(build: pathlib.Path, case: Case) -> dict[str, Any]:
    name = "update_fp32_fp32" if case.dtype == "fp32" else "two_passes_bf16_bf16"
    result = run([
        str(build / "benchmarks/bench_kernels"), "--device", "host", "--case", name, "--tensors",
        "0", "--numel",
        str(case.numel), "--threads",
        str(case.threads), "--steps",
        str(case.steps), "--warmup",
        str(case.warmup)
    ])
    return {"ms": result["cases"][0]["ms"]}


def peer(python: str, program: str, case: Case) -> dict[str, Any]:
    result = run([
        python,
        str(HERE / f"peers/{program}.py"), *case.options(), "--dtype", case.dtype, "--ranks",
        str(case.ranks)
    ])
    if "absent" in result:
        return result
    return {"ms": result["step_ms"], "torch": result["torch"]}


# ---- rounds ----


class Turns:
    """One case: ours, and the peers beside it."""
    def __init__(self, ours: Subject, peers: list[Subject], case: Case) -> None:
        self.ours, self.case = ours, case
        self.here = list(peers)
        self.absent: dict[str, str] = {}
        self.our_ms: list[float] = []
        self.ms: dict[str, list[float]] = {peer.name: [] for peer in peers}
        self.ratios: dict[str, list[float]] = {peer.name: [] for peer in peers}
        self.peers = peers
        self.facts: dict[str, Any] = {}

    def run_ours(self) -> float:
        result = self.ours.run(self.case)
        self.facts.update(result.get("machine", {}))
        self.our_ms.append(result["ms"])
        return result["ms"]

    def round(self) -> None:
        before = self.run_ours()
        for subject in list(self.here):
            result = subject.run(self.case)
            if "absent" in result:
                self.absent[subject.name] = result["absent"]
                self.here.remove(subject)
                continue
            after = self.run_ours()
            self.ms[subject.name].append(result["ms"])
            self.ratios[subject.name].append(
                result.get("ratio", 2 * result["ms"] / (before + after)))
            self.facts.update({"torch": result["torch"]} if "torch" in result else {})
            before = after

    def report(self) -> dict[str, Any]:
        rows = [{"name": self.ours.name, "label": self.ours.label, **spread("ms", self.our_ms)}]
        for subject in self.peers:
            row = {"name": subject.name, "label": subject.label}
            if subject.name in self.absent:
                rows.append({**row, "absent": self.absent[subject.name]})
            else:
                rows.append({
                    **row, **spread("ms", self.ms[subject.name]),
                    **spread("ratio", self.ratios[subject.name])
                })
        return {**dataclasses.asdict(self.case), "subjects": rows}


def tell(report: dict[str, Any]) -> None:
    print(
        f"{report['numel']:,} parameters, {report['dtype']}, clip {report['clip']:g}, {report['ranks']} "
        f"ranks, {report['threads']} threads each")
    for row in report["subjects"]:
        if "absent" in row:
            print(f"  {row['label']:48} absent: {row['absent']}")
        else:
            ratio = (
                f"  {row['ratio']:6.2f} times ours ({row['ratio_q1']:.2f} to {row['ratio_q3']:.2f})"
                if "ratio" in row else "")
            print(f"  {row['label']:48} {row['ms']:9.2f} ms{ratio}")
    sys.stdout.flush()


# ---- parts ----


def cases_of(options: argparse.Namespace) -> list[Case]:
    base = Case(numel=options.numel,
                tensors=min(32, options.numel),
                ranks=options.ranks,
                steps=options.steps,
                warmup=options.warmup)
    change = functools.partial(dataclasses.replace, base)
    if options.part == "peers":
        return [base]
    if options.part == "peers_bf16":
        return [change(dtype="bf16", clip=1)]
    if options.part == "kernels":
        alone = functools.partial(change, ranks=1, tensors=1, threads=options.ranks)
        return [alone(), alone(dtype="bf16", clip=1)]
    if options.part == "sizes":
        return [
            change(numel=max(base.tensors, options.numel >> shift), steps=(shift + 1) * base.steps)
            for shift in ((4, 0) if options.quick else (8, 6, 4, 2, 0))
        ]
    return [change(ranks=ranks) for ranks in ((1, 2) if options.quick else (1, 2, 4))]


def subjects_of(options: argparse.Namespace) -> tuple[Subject, list[Subject]]:
    def python(name: str, label: str) -> Subject:
        return Subject(name, label, functools.partial(peer, options.python, name))

    if options.part == "kernels":
        return (Subject("zero1", "zero1", functools.partial(our_kernel, options.build)), [
            python("cpu_adam", "DeepSpeed CPUAdam"),
            python("torch_fused", "torch AdamW, fused")
        ])
    peers = [
        Subject("textbook", "MPI, the textbook way", functools.partial(textbook, options.build)),
        python("ddp_adamw", "torch all-reduce + AdamW"),
        python("zero_redundancy", "torch ZeroRedundancyOptimizer")
    ]
    if options.part.startswith("peers"):
        peers += [python("fsdp2", "torch FSDP2"), python("deepspeed_zero1", "DeepSpeed ZeRO-1")]
    return Subject("zero1", "zero1", functools.partial(our_step, options.build)), peers


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "part",
        choices=["peers", "peers_bf16", "kernels", "sizes", "ranks"],
        help="peers: fp32, a step. peers_bf16: with clipping and fp32 masters. kernels: the"
        " update alone, in one process with --ranks threads. sizes: a step of 1/256 of"
        " --numel to all of it. ranks: of 1, 2 and 4 ranks")
    parser.add_argument("--build",
                        type=pathlib.Path,
                        default=HERE.parent / "build",
                        help="where zero1 is built [build]")
    parser.add_argument("--python", default=sys.executable, help="that has PyTorch [this one]")
    parser.add_argument("--numel", type=count, default=32 << 20, help="parameters [32Mi]")
    parser.add_argument("--ranks", type=count, default=2, help="[2]")
    parser.add_argument("--rounds", type=count, default=5, help="[5]")
    parser.add_argument("--steps", type=count, default=5, help="of a run, that count [5]")
    parser.add_argument("--warmup", type=count, default=2, help="of a run, before them [2]")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and ranks")
    parser.add_argument("--json", metavar="FILE", help="where it goes [standard output]")
    return parser.parse_args()


def main() -> None:
    options = parse()
    ours, peers = subjects_of(options)
    result: dict[str, Any] = {"part": options.part, "rounds": options.rounds, "cases": []}
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "real_time": os.sched_getscheduler(0) != os.SCHED_OTHER  # before all others of the machine
    }
    for case in cases_of(options):
        turns = Turns(ours, peers, case)
        for _ in range(options.rounds):
            turns.round()
        facts.update(turns.facts)
        result["cases"].append(turns.report())
        tell(result["cases"][-1])
    write({**result, **facts}, options.json)


until_stopped.run(main)
