#!/usr/bin/env python3
"""What the wire's data types do to the loss of the language model, and to the bytes that travel.

Trains the model of examples/train_lm with each pair of wires, every rank as a node of its own, from
the same seeds with the same steps; writes wire_loss.json, wire_loss.md and wire_loss.png. Exits with
1 where a training failed, or the bytes are not those that the data types ask for. Takes a build of
train_lm, mpirun, and matplotlib."""

import argparse
import csv
import json
import math
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import until_stopped

WIRES = [("fp32", "fp32"), ("bf16", "fp32"), ("bf16", "bf16"), ("int8", "fp32"), ("int8", "bf16")]
BYTES = {"fp32": 4.0, "bf16": 2.0, "int8": 272 / 256}  # of an element; a block has a scale
MODEL = ["--layers", "2", "--dim", "64", "--context", "64", "--batch", "8", "--warmup", "20"]
COLORS = ["#333333", "#4c78a8", "#72b7b2", "#e45756", "#f58518"]


def name_of(wires: tuple[str, str]) -> str:
    return f"{wires[0]} / {wires[1]}"


def train(args: argparse.Namespace, wires: tuple[str, str], seed: int) -> dict:
    """One training: the last held-out loss, the held-out losses on the way, rank 0's bytes a step."""
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                       OMPI_MCA_mpi_yield_when_idle="1", OMPI_MCA_rmaps_base_oversubscribe="1")
    with tempfile.TemporaryDirectory() as folder:
        log = pathlib.Path(folder, "log.csv")
        command = ["mpirun", "-n", str(args.ranks), "--bind-to", "none",
                   str(pathlib.Path(args.build, "examples", "train_lm")), *MODEL,
                   "--data", args.data,
                   "--ranks-per-node", "1", "--threads", "1", "--grad-wire", wires[0],
                   "--param-wire", wires[1], "--seed", str(seed), "--steps", str(args.steps),
                   "--val-every", str(max(1, args.steps // 12)), "--val-batches", "8", "--sample-bytes", "0",
                   "--progress", "log", "--log", str(log)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        rows = list(csv.DictReader(log.read_text().splitlines()))
    numel = int(re.search(r": (\d+) parameters", done.stdout).group(1))
    sent = {int(row["sent_bytes"]) for row in rows if int(row["step"])}
    if len(sent) != 1:
        sys.exit(f"{name_of(wires)}: the bytes of a step change: {sorted(sent)}")
    curve = [(int(row["step"]), float(row["val_loss"])) for row in rows if row["val_loss"]]
    return {"seed": seed, "loss": curve[-1][1], "curve": curve, "sent_bytes": sent.pop(),
            "numel": numel}


def check_bytes(wires: tuple[str, str], run: dict, ranks: int) -> None:
    """A rank sends (d-1)/d of the gradients and d-1 times its part of the parameters. Shards are whole
    blocks and the last bucket is padded: rank 0 has a little more of it than its equal part; a short
    block's codes travel whole."""
    whole = run["numel"] * (BYTES[wires[0]] + BYTES[wires[1]]) * (ranks - 1) / ranks
    if not abs(run["sent_bytes"] / whole - 1) < 0.02:
        sys.exit(f"{name_of(wires)}: {run['sent_bytes']} bytes a step where {whole:.0f} are due")


def table(results: list[dict], args: argparse.Namespace) -> str:
    base = results[0]
    lines = [
        "# The wire's data types and the language model's loss\n",
        f"`train_lm`, {base['runs'][0]['numel']:,} parameters, {args.ranks} ranks, each a node of its "
        f"own, {args.steps} steps, {args.seeds} seeds; loss in nats per byte over all held-out text, "
        "mean over seeds; the difference is that of the same seeds. Written by "
        "`benchmarks/wire_loss.py`.\n",
        "| gradients / parameters | bytes per step and rank | of fp32 | held-out loss | to fp32 |"
        " least, most of a seed |",
        "|---|---:|---:|---:|---:|---:|"]
    for result in results:
        apart = [a["loss"] - b["loss"] for a, b in zip(result["runs"], base["runs"])]
        lines.append(f"| {result['name']} | {result['sent_bytes']:,} "
                     f"| {result['sent_bytes'] / base['sent_bytes']:.3f} | {result['loss']:.4f} "
                     f"| {statistics.mean(apart):+.4f} | {min(apart):+.4f}, {max(apart):+.4f} |")
    spread = [run["loss"] for run in base["runs"]]
    lines.append(f"\nBetween the seeds themselves fp32 / fp32 differs by "
                 f"{max(spread) - min(spread):.4f}.\n")
    return "\n".join(lines)


def draw(results: list[dict], path: pathlib.Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), width_ratios=[3, 2])
    base = results[0]
    for result, color in zip(results, COLORS):
        steps = [step for step, _ in result["runs"][0]["curve"]]
        apart = [statistics.mean(points) for points in
                 zip(*([mine[1] - other[1] for mine, other in zip(run["curve"], same["curve"])]
                       for run, same in zip(result["runs"], base["runs"])))]
        left.plot(steps, apart, color=color, label=result["name"], linewidth=1.5)
    left.set(xlabel="step", ylabel="held-out loss less that of fp32 / fp32",
             title=f"fp32 / fp32 comes to {base['loss']:.3f} nats per byte")
    left.legend(frameon=False, title="gradients / parameters")
    right.barh([result["name"] for result in results],
               [result["sent_bytes"] / 1e6 for result in results], color=COLORS)
    right.invert_yaxis()
    right.set(xlabel="MB", title="sent per step and rank")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--data", required=True, help="a text, as of train_lm")
    parser.add_argument("--build", default="build", help="where train_lm was built")
    parser.add_argument("--out", default="benchmarks/results", help="folder of the results")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args()
    for name, least in ("ranks", 2), ("steps", 1), ("seeds", 1):
        if getattr(args, name) < least:
            parser.error(f"--{name}: {getattr(args, name)} is less than {least}")
    program = pathlib.Path(args.build, "examples", "train_lm")
    for option, path in ("--data", pathlib.Path(args.data)), ("--build", program):
        if not path.is_file():
            parser.error(f"{option}: {path} is not there")
    results = []
    for wires in WIRES:
        runs = [train(args, wires, seed + 1) for seed in range(args.seeds)]
        for run in runs:
            check_bytes(wires, run, args.ranks)
            if not math.isfinite(run["loss"]) or run["loss"] >= run["curve"][0][1]:
                sys.exit(f"{name_of(wires)}: the loss did not fall: {run['loss']}")
        results.append({"name": name_of(wires), "grad_wire": wires[0], "param_wire": wires[1],
                        "loss": statistics.mean(run["loss"] for run in runs),
                        "sent_bytes": runs[0]["sent_bytes"], "runs": runs})
        print(f"{results[-1]['name']}: {results[-1]['sent_bytes']} bytes, {results[-1]['loss']:.4f}",
              flush=True)
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    settings = {"ranks": args.ranks, "steps": args.steps, "results": results}
    (out / "wire_loss.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    (out / "wire_loss.md").write_text(table(results, args), encoding="utf-8")
    draw(results, out / "wire_loss.png")


if __name__ == "__main__":
    until_stopped.run(main)
