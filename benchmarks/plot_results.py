#!/usr/bin/env python3
"""Draws the results in a folder that compare.py and torch_training.py wrote, one PNG beside each JSON
file."""

from __future__ import annotations

import json
import math
import pathlib
import sys
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OURS, PEER, GRID, TEXT, PALE = "#d1495b", "#5b7c99", "#e6e6e6", "#333333", "#777777"
LINES = {"zero1": OURS, "textbook": "#edae49", "ddp_adamw": "#30638e", "zero_redundancy": "#00798c"}


def here(case: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in case["subjects"] if "absent" not in row]


def style(axes, grid: str) -> None:
    axes.grid(axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#aaaaaa")
    axes.tick_params(length=0, which="both")


def millis(ms: float) -> str:
    return f"{ms:,.0f} ms" if ms >= 100 else f"{ms:.3g} ms"


def mi(numel: int) -> str:
    if numel >= 1 << 20:
        return f"{numel / (1 << 20):.3g} Mi"
    return f"{numel / (1 << 10):g} Ki"


def setting(case: dict[str, Any]) -> str:
    dtype = "fp32" if case["dtype"] == "fp32" else "bf16, fp32 masters"
    clip = "clipped" if case["clip"] else "no clipping"
    return f"{mi(case['numel'])} parameters, {dtype}, {clip}"


def footnote(figure, result: dict[str, Any], text: str) -> None:
    machine = f"{result['cpu']}, {result['cores']} cores; " if "cpu" in result else ""
    torch = f"PyTorch {result['torch']}; " if "torch" in result else ""
    figure.supxlabel(f"{machine}{torch}{text}", fontsize=8, color=PALE, x=0.01, ha="left")


# ---- ratio bars ----


def bars(axes, case: dict[str, Any], title: str) -> None:
    """Times slower than ours, which is 1."""
    ours, *peers = case["subjects"]
    rows = [ours, *sorted(peers, key=lambda row: row.get("ratio", math.inf))]
    longest = max(row.get("ratio_q3", 1) for row in rows)
    for place, row in enumerate(rows):
        if "absent" in row:
            axes.text(longest * 0.015,
                      place,
                      f"absent: {row['absent'][:80]}",
                      va="center",
                      fontsize=9,
                      color=PALE)
            continue
        ours = "ratio" not in row
        ratio = 1 if ours else row["ratio"]
        axes.barh(place, ratio, height=0.62, color=OURS if row["name"].startswith("zero1") else PEER)
        end = ratio
        if not ours:
            end = row["ratio_q3"]
            axes.plot([row["ratio_q1"], end], [place, place], color=TEXT, linewidth=1.2)
            end = max(end, 1)  # beside the line
        what = millis(row["ms"]) if ours else f"{ratio:.3g}×   {millis(row['ms'])}"
        axes.text(end + longest * 0.015,
                  place,
                  what,
                  va="center",
                  fontsize=10,
                  color=OURS if ours else TEXT,
                  fontweight="bold" if ours else "normal")
    axes.axvline(1, color=OURS, linewidth=0.9, linestyle=(0, (2, 2)))
    axes.set_yticks(range(len(rows)), [row["label"] for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, longest * 1.32)
    axes.set_title(title, loc="left", fontsize=11, color=PALE)
    style(axes, "x")
    axes.spines["left"].set_visible(False)


def plot_bars(results: list[dict[str, Any]], title: str, note: str):
    return plot_cases([(case, setting(case)) for result in results for case in result["cases"]],
                      results[0], title, note)


def plot_cases(titled: list[tuple[dict[str, Any], str]], result: dict[str, Any], title: str, note: str):
    cases = [case for case, _ in titled]
    heights = [len(case["subjects"]) + 1.3 for case in cases]
    figure, all_axes = plt.subplots(len(cases),
                                    1,
                                    figsize=(8.6, 0.42 * sum(heights) + 1.1),
                                    dpi=150,
                                    layout="constrained",
                                    height_ratios=heights,
                                    squeeze=False)
    for axes, (case, subtitle) in zip(all_axes[:, 0], titled):
        bars(axes, case, subtitle)
    all_axes[-1, 0].set_xlabel("time, in times of zero1's")
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    footnote(figure, result, note)
    return figure


def torch_case(result: dict[str, Any], what: str) -> dict[str, Any]:
    """One of the two workloads of torch_training.py, as bars takes it."""
    rows = []
    for subject in result["subjects"]:
        names = ["ms"] if subject["name"] == "zero1" else ["ms", "ratio", "ratio_q1", "ratio_q3"]
        rows.append(subject if "absent" in subject else {
            "name": subject["name"], "label": subject["label"],
            **{name: subject[f"{what}_{name}"] for name in names}
        })  # yapf: disable
    return {"subjects": rows}


def plot_torch(result: dict[str, Any], note: str):
    tokens = result["batch"] * result["context"]
    return plot_cases(
        [(torch_case(result, "train"), f"a GPT of {mi(result['numel'])} parameters, {tokens} tokens a rank"),
         (torch_case(result, "alone"), "communication and update alone")], result,
        f"A training step of PyTorch on {result['ranks']} ranks, {result['threads']} thread each", note)


# ---- lines ----


def label_ends(axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Names at the right ends of lines on a logarithmic axis, moved apart where they would
    touch."""
    least = 1.28
    at = 0.0
    for x, y, text, color in sorted(ends, key=lambda end: end[1]):
        at = max(y, at * least)
        axes.annotate(text, (x, at),
                      xytext=(8, 0),
                      textcoords="offset points",
                      va="center",
                      color=color,
                      fontsize=10,
                      fontweight="bold" if color == OURS else "normal",
                      annotation_clip=False)


def plot_lines(result: dict[str, Any], key: str, title: str, xlabel: str, note: str):
    figure, axes = plt.subplots(figsize=(8.6, 4.8), dpi=150, layout="constrained")
    ends = []
    for first in here(result["cases"][0]):
        name, color = first["name"], LINES.get(first["name"], PEER)
        points = [(case[key], row) for case in result["cases"] for row in here(case)
                  if row["name"] == name]
        xs = [x for x, _ in points]
        axes.fill_between(xs, [row["ms_q1"] for _, row in points],
                          [row["ms_q3"] for _, row in points],
                          color=color,
                          alpha=0.15,
                          linewidth=0)
        axes.plot(xs, [row["ms"] for _, row in points],
                  color=color,
                  marker="o",
                  markersize=4.5,
                  linewidth=2.4 if name == "zero1" else 1.6)
        last = points[-1][1]
        ends.append((xs[-1], last["ms"], f"{first['label']}, {millis(last['ms'])}", color))
    values = [case[key] for case in result["cases"]]
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(values, [mi(x) if key == "numel" else f"{x}" for x in values])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    label_ends(axes, ends)
    axes.set_xlabel(xlabel)
    axes.set_ylabel("a step, ms")
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold", pad=10)
    style(axes, "y")
    footnote(figure, result, note)
    return figure


# ---- all ----


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    results = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in folder.glob("*.json")
    }
    results = {  # other files are of other programs
        name: result
        for name, result in results.items()
        if isinstance(result, dict) and result.get("part") == name
    }
    plt.rcParams.update({
        "font.size": 10, "text.color": TEXT, "axes.labelcolor": TEXT, "xtick.color": TEXT,
        "ytick.color": TEXT
    })
    turns = "medians and quartiles of runs that take turns"
    peers = [results[name] for name in ("peers", "peers_bf16") if name in results]
    figures = {}
    if peers:
        ranks = peers[0]["cases"][0]["ranks"]
        figures["peers"] = plot_bars(
            peers, f"A step on {ranks} ranks: reduce gradients, AdamW, gather parameters", turns)
    if "torch" in results:
        figures["torch"] = plot_torch(results["torch"], turns)
    if "kernels" in results:
        threads = results["kernels"]["cases"][0]["threads"]
        figures["kernels"] = plot_bars(
            [results["kernels"]], f"The update alone, {threads} threads in one process",
            f"bf16: cast, norm, clipping and cast back included; {turns}")
    if "sizes" in results:
        ranks = results["sizes"]["cases"][0]["ranks"]
        figures["sizes"] = plot_lines(results["sizes"], "numel",
                                      f"Time of a step against size, {ranks} ranks",
                                      "parameters, fp32", turns)
    if "ranks" in results:
        case = results["ranks"]["cases"][0]
        cores = results["ranks"].get("cores", 0)
        over = [
            str(other["ranks"]) for other in results["ranks"]["cases"] if other["ranks"] > cores
        ]
        note = f"; {' and '.join(over)} ranks share {cores} cores" if over else ""
        figures["ranks"] = plot_lines(
            results["ranks"], "ranks",
            f"Time of a step against ranks, {mi(case['numel'])} parameters",
            "data-parallel ranks on one machine", turns + note)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png")
        print(folder / f"{name}.png")


if __name__ == "__main__":
    main()
