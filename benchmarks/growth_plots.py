"""What growth.py measured, as pictures: lines are measured, dotted ones predicted by bytes, dashed
ones by bytes with the holes between tensors."""

import math
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from growth_sweeps import short, sweeps

COLOURS = ("#4c78a8", "#e45756", "#54a24b")
GRID, TEXT = "#e6e6e6", "#333333"


def rows_of(found: dict, sweep: str, series: str) -> list[dict]:
    return [row for row in found["points"]
            if row["sweep"] == sweep and row["series"] == series and "left_out" not in row]


def panel(axes: Axes, title: str, label: str, ticks: list[int]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_title(title, loc="left", fontsize=11, pad=8)
    axes.set_xlabel(label)
    kept = ticks[:1]
    for tick in ticks:  # labels that would touch each other
        if math.log(tick / kept[-1]) > 0.11 * math.log(ticks[-1] / ticks[0]):
            kept.append(tick)
    axes.set_xticks(kept, [short(tick).replace(",000,000", "M").replace(",000", "k")
                           for tick in kept])
    axes.minorticks_off()
    axes.margins(x=0.2)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#aaaaaa")


def plain_numbers(axes: Axes) -> None:
    """1, 2, 5, 10, 20, 50 ... instead of powers, and a decade at least."""
    low, high = axes.get_ylim()
    while high / low < 4:
        low, high = low / 1.25, high * 1.25
    axes.set_ylim(low, high)
    ticks = [digit * 10.0**power for power in range(-4, 7) for digit in (1, 2, 5)]
    axes.set_yticks([tick for tick in ticks if low <= tick <= high])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()


def label_end(axes: Axes, xs: list, ys: list, text: str, colour: str) -> None:
    axes.annotate(text, (xs[-1], ys[-1]), color=colour, xytext=(6, 0), textcoords="offset points",
                  va="center", fontsize=9)


def spread_labels(axes: Axes) -> None:
    """Labels at the same height move apart: from the lowest one upwards."""
    axes.figure.canvas.draw()
    labels = sorted(axes.texts, key=lambda text: axes.transData.transform(text.xy)[1])
    floor = float("-inf")
    for text in labels:
        height = axes.transData.transform(text.xy)[1] * 72 / axes.figure.dpi  # points
        placed = max(height, floor + 11)
        text.xyann = (6, placed - height)
        floor = placed


def figure_of(found: dict, name: str, panels: list[tuple[str, str, str | None]]) -> Figure | None:
    """panels: (key, title, predicted key or None)."""
    sweep = next(sweep for sweep in sweeps(found["quick"]) if sweep.name == name)
    ticks = sorted({row["value"] for row in found["points"]
                    if row["sweep"] == name and "left_out" not in row})
    if not ticks:
        return None
    figure, all_axes = plt.subplots(1, len(panels), figsize=(5.6 * len(panels), 4.2), dpi=120,
                                    layout="constrained", squeeze=False)
    for axes, (key, title, predicted) in zip(all_axes[0], panels):
        panel(axes, title, sweep.label, ticks)
        for series, colour in zip(sweep.series, COLOURS):
            rows = rows_of(found, name, series.name)
            if not rows:
                continue
            xs = [row["value"] for row in rows]
            ys = [row[key] for row in rows]
            axes.plot(xs, ys, color=colour, linewidth=1.8, marker="o", markersize=4)
            label_end(axes, xs, ys, series.name, colour)
            if predicted:
                axes.plot(xs, [row[predicted] for row in rows], color=colour, linewidth=1.2,
                          linestyle=":")
                if name == "tensors":
                    axes.plot(xs, [row["padded_predicted_ms"] for row in rows], color=colour,
                              linewidth=1.0, linestyle="--")
        plain_numbers(axes)
        spread_labels(axes)
    return figure


PANELS = {
    "tensors": [("step_ms", "step, ms (dotted: by bytes; dashed: holes too)", "predicted_ms"),
                ("create_ms", "create, ms", None)],
    "numel": [("step_ms", "step, ms (dotted: by bytes)", "predicted_ms"),
              ("create_ms", "create, ms", None)],
    "ranks": [("step_ms", "step, ms (dotted: by bytes)", "predicted_ms"),
              ("cpu_ms", "processors' time of all ranks, ms", None)],
    "threads": [("step_ms", "step, ms (dotted: by bytes)", "predicted_ms")],
    "bucket_numel": [("step_ms", "step, ms (dotted: by bytes)", "predicted_ms")],
}


def draw(found: dict, folder: pathlib.Path) -> list[pathlib.Path]:
    """One PNG for each sweep that is in the object of growth.json."""
    plt.rcParams.update({"font.size": 10, "text.color": TEXT, "axes.labelcolor": TEXT,
                         "xtick.color": TEXT, "ytick.color": TEXT})
    paths = []
    for name, panels in PANELS.items():
        figure = figure_of(found, name, panels)
        if figure is None:
            continue
        paths.append(folder / f"growth_{name}.png")
        figure.savefig(paths[-1])
        plt.close(figure)
    return paths
