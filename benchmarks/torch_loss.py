#!/usr/bin/env python3
"""Whether a model that PyTorch trains learns the same under zero1 as under DistributedDataParallel and AdamW.

Trains the model of examples/train_torch.py three times from the same seed on the same windows: zero1, DDP with
torch.optim.AdamW, and, as a measure of what rounding alone does, DDP with AdamW(fused=True). Writes torch_loss.json,
and a picture of the curves and their differences. Exits with 1 where a training failed, or the losses of zero1 and
DDP are further apart than LIMITS. Takes a build of the library, PyTorch, mpirun and matplotlib."""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from plot_results import GRID, OURS, PALE, PEER, TEXT, style
import until_stopped

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODEL = ["--layers", "2", "--dim", "128", "--heads", "4", "--context", "64", "--batch", "16", "--warmup", "50"]
RUNS = {"zero1": [], "ddp": ["--optimizer", "ddp"], "ddp_fused": ["--optimizer", "ddp", "--fused"]}
ULP = 2.0**-23  # of fp32 numbers from 1 to 2, relative; a loss is one

#: Highest relative difference between the losses of a step, up to a step (None: all). Gradients are the same sums;
#: what differs is the rounding of the norm and of the update, whose effect on the parameters adds up.
LIMITS = [(1, 0.0), (100, 8 * ULP), (None, 1e-5)]


def train(args: argparse.Namespace, name: str) -> list[dict[str, Any]]:
    """The rows that one training has logged."""
    environment = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                                "OMPI_MCA_mpi_yield_when_idle": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1",
                                "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "python")}
    launcher = ["mpirun", "-n", str(args.ranks), "--bind-to", "none", sys.executable]
    if name != "zero1":
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
                    str(args.ranks), "--"]
    with tempfile.TemporaryDirectory() as folder:
        log = pathlib.Path(folder, "log.jsonl")
        command = [*launcher, str(ROOT / "examples" / "train_torch.py"), *MODEL, *RUNS[name], "--data", args.data,
                   "--steps", str(args.steps), "--val-every", str(max(1, args.steps // 20)), "--log", str(log)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def differences(rows: list[dict[str, Any]], others: list[dict[str, Any]], key: str = "loss") -> list[float]:
    """Relative to the others', signed, of each row that has `key`."""
    return [row[key] / other[key] - 1 for row, other in zip(rows, others) if key in row]


def check(apart: list[float]) -> list[dict[str, Any]]:
    """What was found, beside LIMITS. [apart] of the steps from 1"""
    found = []
    for steps, limit in LIMITS:
        largest = max(map(abs, apart[:steps]))
        found.append({"steps": min(steps or len(apart), len(apart)), "limit": limit, "largest": largest})
        if largest > limit:
            sys.exit(f"losses of zero1 and ddp are {largest:.2g} apart within {found[-1]['steps']} steps, and not "
                     f"within {limit:.2g}")
    return found


# ---- the picture ----


def column(rows: list[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    return [row["step"] for row in rows if key in row], [row[key] for row in rows if key in row]


def draw_curves(axes, runs: dict[str, list[dict[str, Any]]]) -> None:
    """DDP's thin line lies on zero1's broad one."""
    axes.plot(*column(runs["zero1"], "loss"), color=OURS, alpha=0.35, linewidth=3.2, solid_joinstyle="round",
              label="zero1, training")
    axes.plot(*column(runs["ddp"], "loss"), color=PEER, linewidth=0.8, label="DDP + AdamW, training")
    steps, losses = column(runs["zero1"], "held_out")
    axes.plot(steps, losses, color=OURS, marker="o", markersize=6.5, linewidth=0, label="zero1, held out")
    axes.plot(*column(runs["ddp"], "held_out"), color=PEER, marker="x", markersize=6.5, linewidth=0,
              label="DDP + AdamW, held out")
    axes.annotate(f"{losses[-1]:.3f}", (steps[-1], losses[-1]), xytext=(0, 10), textcoords="offset points", ha="right",
                  color=OURS, fontweight="bold")
    axes.set_ylabel("loss, nats per byte")
    axes.legend(frameon=False, loc="upper right")


def draw_differences(axes, runs: dict[str, list[dict[str, Any]]]) -> None:
    reach = 0.0
    for name, color, size, label in (("ddp_fused", PALE, 4, "DDP + AdamW(fused=True), for comparison"),
                                     ("zero1", OURS, 7, "zero1")):
        steps, _ = column(runs[name], "loss")
        apart = [1e7 * value for value in differences(runs[name], runs["ddp"])]
        reach = max(reach, *map(abs, apart), 1e7 * ULP)
        axes.scatter(steps, apart, s=size, color=color, linewidth=0, label=label, zorder=3)
    axes.axhspan(-1e7 * ULP, 1e7 * ULP, color=GRID, alpha=0.7, linewidth=0, label="one unit in the last place of fp32")
    axes.set_ylim(-1.15 * reach, 1.75 * reach)  # room for the legend
    axes.set_ylabel("relative, in $10^{-7}$")
    axes.set_xlabel("optimizer step")
    axes.legend(frameon=False, loc="upper left", ncols=3, fontsize=8.5, markerscale=2, handletextpad=0.4)


def draw(result: dict[str, Any], runs: dict[str, list[dict[str, Any]]], path: pathlib.Path) -> None:
    plt.rcParams.update({"font.size": 10, "text.color": TEXT, "axes.labelcolor": TEXT, "xtick.color": TEXT,
                         "ytick.color": TEXT})
    figure, (curves, apart) = plt.subplots(2, 1, figsize=(8.6, 6.2), dpi=150, layout="constrained", sharex=True,
                                           height_ratios=[5, 2.6])
    draw_curves(curves, runs)
    draw_differences(apart, runs)
    for axes in (curves, apart):
        style(axes, "both")
    curves.set_xlim(0, runs["zero1"][-1]["step"] * 1.01)
    curves.set_title(f"The same model under zero1 and under DDP with AdamW: {result['ranks']} ranks", loc="left",
                     fontsize=13, fontweight="bold", pad=10)
    apart.set_title("Training loss less that of DDP + AdamW", loc="left", fontsize=10.5, color=PALE)
    figure.supxlabel(f"{result['parameters']:,} parameters, fp32, clipped; PyTorch {result['torch']}; "
                     f"at most {result['found'][-1]['largest']:.1e} apart in {result['steps']} steps", fontsize=8,
                     color=PALE, x=0.01, ha="left")
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--data", required=True, help="a text, as of train_torch.py")
    parser.add_argument("--out", default="benchmarks/results", help="folder of torch_loss.json")
    parser.add_argument("--picture", help="file [torch_loss.png in that folder]")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=500)
    args = parser.parse_args()
    for name in "ranks", "steps":
        if getattr(args, name) < 1:
            parser.error(f"--{name}: {getattr(args, name)} is less than 1")
    if not pathlib.Path(args.data).is_file():
        parser.error(f"--data: {args.data} is not there")
    import torch  # after the options are known to be good

    runs = {}
    for name in RUNS:
        runs[name] = train(args, name)
        _, losses = column(runs[name], "held_out")
        print(f"{name}: held-out loss {losses[0]:.4f}, then {losses[-1]:.4f}", flush=True)
    found = check(differences(runs["zero1"], runs["ddp"]))
    if runs["zero1"][-1]["held_out"] >= runs["zero1"][0]["held_out"]:
        sys.exit("the held-out loss did not fall")
    result = {"ranks": args.ranks, "steps": args.steps, "model": MODEL, "torch": torch.__version__,
              "parameters": parameters(), "found": found,
              "found_held_out": max(map(abs, differences(runs["zero1"], runs["ddp"], "held_out"))),
              "fused_largest": max(map(abs, differences(runs["ddp_fused"], runs["ddp"])))}
    result |= {f"{name}_{key}": column(rows, key) for name, rows in runs.items() for key in ("loss", "held_out")}
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in result.items())
    (out / "torch_loss.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    draw(result, runs, pathlib.Path(args.picture) if args.picture else out / "torch_loss.png")
    for row in found:
        print(f"{row['steps']} steps: at most {row['largest']:.1e} apart (limit {row['limit']:.1e})")
    print(f"AdamW(fused=True) from AdamW: {result['fused_largest']:.1e}")


def parameters() -> int:
    """Of the model."""
    sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "python")]
    import train_torch

    args = train_torch.parse(["--data", "", *MODEL])
    model = train_torch.GPT(args.layers, args.dim, args.heads, args.context)
    return sum(param.numel() for param in model.parameters())


if __name__ == "__main__":
    until_stopped.run(main)
