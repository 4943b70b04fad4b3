#!/usr/bin/env python3
"""How a step's cost, and create's, grow with the work: tensors, parameters, ranks, threads, buckets.

Runs bench_step under mpirun for every point, which checks what it computes, and a reference in the
same minute, so that points are compared as ratios: a machine whose neighbours
come and go drifts by half within minutes. Writes FOLDER/growth.json, growth.md and growth_*.png.
Exits with 1 where a point computed something wrong, or where bench_step counts other bytes than
growth_sweeps.py predicts."""

import argparse
import dataclasses
import importlib.util
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import growth_table
from growth_sweeps import Point, Sweep, short, sweeps
import until_stopped

ROOT = pathlib.Path(__file__).resolve().parent.parent
MEASURED = """step_ms step_ms_q1 step_ms_q3 limit_ms ratio_to_limit first_ms ready_ms exchange_ms reduce_ms
agree_ms update_ms gather_ms wait_ms cpu_ms create_ms bytes_per_param bytes_moved achieved_gbps
limit_gbps memory_bytes padding_bytes bucket_numel passes""".split()
MACHINE = "cpu cores memory_gib kernel compiler mpi isa huge_pages shared_huge_pages".split()
WIDE = 1.15  # third quartile of a step over the first one
MOST_OF_MEMORY = 0.85  # of what the machine has free: a point that takes more is left out


class Failure(Exception):
    """A point that did not run, or computed something wrong."""


@dataclasses.dataclass(frozen=True)
class Runner:
    program: pathlib.Path
    quick: bool
    real_time: bool

    def steps(self, point: Point) -> list[str]:
        if self.quick:
            return ["--steps", "2", "--warmup", "1"]
        bytes_moved = point.numel * point.bytes_per_param()
        steps = min(25, max(5, int(25 * (1 << 30) / bytes_moved)))
        return ["--steps", str(steps), "--warmup", "2"]

    def bench(self, point: Point, creates: int) -> dict:
        """What bench_step wrote."""
        oversubscribed = point.ranks * point.threads > (os.cpu_count() or 1)
        command = ["chrt", "-r", "5"] if self.real_time else []
        command += ["mpirun", "-n", str(point.ranks)]
        command += ["--bind-to", "none"] if oversubscribed or point.threads > 1 else []
        command += ["--oversubscribe"] if oversubscribed else []
        environment = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1",
                                    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        if oversubscribed:
            environment["OMPI_MCA_mpi_yield_when_idle"] = "1"
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            command += [str(self.program), *point.options(), *self.steps(point), "--no-baseline",
                        "--creates", str(creates), "--json", file.name]
            run = subprocess.run(command, env=environment, capture_output=True, text=True,
                                 timeout=600, check=False)
            if run.returncode:
                raise Failure(f"{' '.join(command)}: exit code {run.returncode}\n{run.stderr}")
            result = json.load(file)
        if result["bytes_per_param"] != point.bytes_per_param():
            raise Failure(f"{point}: a step moves {result['bytes_per_param']} bytes per parameter, "
                          f"and {point.bytes_per_param()} were predicted")
        return result


def free_bytes() -> int:
    text = pathlib.Path("/proc/meminfo").read_text(encoding="utf-8")
    return 1024 * int(re.search(r"MemAvailable:\s*(\d+)", text).group(1))


def reference_of(quick: bool) -> Point:
    return Point(numel=1 << 18) if quick else Point()


def spread(result: dict) -> float:
    return result["step_ms_q3"] / result["step_ms_q1"]


def calm(runner: Runner, point: Point, creates: int) -> dict:
    """What bench_step wrote; where steps differ much, something else was running: then of three runs
    the one in which they differ least."""
    result = runner.bench(point, creates)
    for _ in range(0 if runner.quick else 2):
        if spread(result) > WIDE:
            result = min(result, runner.bench(point, creates), key=spread)
    return result


class Turns:
    """Points beside the reference, which holds for REFERENCE_HOLDS seconds."""

    REFERENCE_HOLDS = 20

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.referred = -math.inf
        self.reference: dict = {}

    def begin(self) -> dict:
        """Before a point; returns what the reference came to."""
        if time.monotonic() - self.referred > self.REFERENCE_HOLDS:
            self.reference = calm(self.runner, reference_of(self.runner.quick), 1)
            self.referred = time.monotonic()
        return self.reference


def measure(turns: Turns, sweep: Sweep, series: str, value: int, point: Point) -> dict:
    """One point beside the reference, or why it was left out."""
    row = {"sweep": sweep.name, "series": series, "value": value} | dataclasses.asdict(point)
    reference = turns.begin()
    free = free_bytes()
    if point.memory_bytes() > MOST_OF_MEMORY * free:
        return row | {"left_out": f"{point.memory_bytes() / 2**30:.1f} GiB are needed, and "
                                  f"{free / 2**30:.1f} GiB are free"}
    result = calm(turns.runner, point, sweep.creates)
    gbps = reference["limit_gbps"]
    bytes_moved = point.numel * point.bytes_per_param()
    return row | {key: result[key] for key in MEASURED} | {
        "reference_step_ms": reference["step_ms"],
        "reference_limit_gbps": gbps,
        "ratio_to_reference": result["step_ms"] / reference["step_ms"],
        "predicted_ms": bytes_moved / gbps * 1e-6,
        "padded_predicted_ms": point.padded_numel() * point.bytes_per_param() / gbps * 1e-6,
        "machine": {key: result[key] for key in MACHINE},
    }


def run(turns: Turns, chosen: list[Sweep]) -> dict:
    rows = []
    for sweep in chosen:
        for series, value, point in sweep.points():
            row = measure(turns, sweep, series, value, point)
            rows.append(row)
            said = row.get("left_out") or (
                f"step {row['step_ms']:.2f} ms, predicted {row['predicted_ms']:.2f}, "
                f"create {row['create_ms']:.1f}")
            print(f"{sweep.name:13} {series:18} {short(value):>10}  {said}", flush=True)
    machine = next((row["machine"] for row in rows if "machine" in row), {})
    for row in rows:
        row.pop("machine", None)
    quick = turns.runner.quick
    return {"machine": machine, "quick": quick,
            "reference": dataclasses.asdict(reference_of(quick)), "points": rows}


def write(path: pathlib.Path, text: str) -> None:
    """Whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def keep_others(path: pathlib.Path, found: dict) -> dict:
    """With the points of other sweeps that the file has already."""
    if not path.exists():
        return found
    old = json.loads(path.read_text(encoding="utf-8"))
    fresh = {row["sweep"] for row in found["points"]}
    kept = [row for row in old["points"] if row["sweep"] not in fresh]
    if old["quick"] != found["quick"] or (kept and old["machine"] != found["machine"]):
        return found
    order = [sweep.name for sweep in sweeps(False)]
    return found | {"points": sorted(kept + found["points"],
                                     key=lambda row: order.index(row["sweep"]))}


def clean(value: object) -> object:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [clean(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def parse() -> argparse.Namespace:
    names = [sweep.name for sweep in sweeps(False)]
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true",
                        help="few and small points, to see that all of it works")
    parser.add_argument("--only", metavar="SWEEP,...", default=",".join(names),
                        help="these sweeps; others that the results hold stay [all: %(default)s]")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build",
                        help="folder of the build [build]")
    parser.add_argument("--out", type=pathlib.Path, metavar="FOLDER",
                        help="where the results go [benchmarks/results; build/growth with --quick]")
    parser.add_argument("--real-time", action="store_true",
                        help="before all other programs of the machine, as root: for a machine that "
                             "is not idle")
    parser.add_argument("--draw", action="store_true",
                        help="measure nothing: table and plots of the results that are there")
    parser.add_argument("--no-plots", action="store_true", help="without matplotlib")
    arguments = parser.parse_args()
    for name in arguments.only.split(","):
        if name not in names:
            parser.error(f"--only: '{name}' is none of {', '.join(names)}")
    arguments.program = arguments.build / "benchmarks" / "bench_step"
    if not arguments.draw and not arguments.program.exists():
        parser.error(f"{arguments.program} is not there: cmake --build {arguments.build}")
    if not arguments.no_plots and importlib.util.find_spec("matplotlib") is None:
        parser.error("there is no matplotlib: .venv/bin/python after scripts/python_deps matplotlib, "
                     "or --no-plots")
    if not arguments.out:
        arguments.out = (ROOT / "build" / "growth" if arguments.quick
                         else ROOT / "benchmarks" / "results")
    return arguments


def main() -> None:
    arguments = parse()
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "growth.json"
    if arguments.draw and not path.exists():
        sys.exit(f"growth: {path} is not there: nothing has been measured")
    if arguments.draw:
        found = json.loads(path.read_text(encoding="utf-8"))
    else:
        chosen = [sweep for sweep in sweeps(arguments.quick)
                  if sweep.name in arguments.only.split(",")]
        try:
            runner = Runner(arguments.program.resolve(), arguments.quick, arguments.real_time)
            found = run(Turns(runner), chosen)
        except Failure as failure:
            sys.exit(f"growth: {failure}")
        found = clean(keep_others(path, found))
        write(path, json.dumps(found, indent=1) + "\n")
    write(arguments.out / "growth.md", growth_table.markdown(found))
    if not arguments.no_plots:
        import growth_plots  # the one module that needs matplotlib

        growth_plots.draw(found, arguments.out)


if __name__ == "__main__":
    until_stopped.run(main)
