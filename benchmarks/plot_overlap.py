"""Draws, bucket by bucket, how much of the communication was hidden: results of bench_overlap."""

import argparse
import json
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HIDDEN, EXPOSED, GRID, TEXT = "#4c78a8", "#e45756", "#e6e6e6", "#333333"
GAP = 3  # places between exchange and gather
KINDS = {"timers": "timers", "busy": "every core busy"}


def draw_one(axes, label: str, way: dict) -> None:
    """Bars in the order of time: the exchange from bucket 0 on, then gathers from the last one."""
    buckets = way["buckets"]
    order = [("exchange", bucket) for bucket in buckets]
    order += [("gather", bucket) for bucket in reversed(buckets)]
    exposed = [bucket[f"{stage}_exposed_ms"] for stage, bucket in order]
    hidden = [bucket[f"{stage}_ms"] - bucket[f"{stage}_exposed_ms"] for stage, bucket in order]
    places = [i + GAP * (i >= len(buckets)) for i in range(len(order))]
    axes.bar(places, hidden, width=0.8, color=HIDDEN, label="hidden")
    axes.bar(places, exposed, width=0.8, bottom=hidden, color=EXPOSED, label="exposed: the rank waits")
    last = len(buckets) - 1
    axes.set_xticks([places[0], places[last], places[last + 1], places[-1]], [0, last, last, 0])
    for name, place in (("exchange", last / 2), ("gather", places[last + 1] + last / 2)):
        axes.text(place, -0.13, f"{name}, by bucket", transform=axes.get_xaxis_transform(),
                  ha="center")
    axes.set_title(f"{label}, {KINDS[way['computation']]}: {100 * way['hidden']:.0f} % hidden",
                   loc="left", fontsize=11)
    axes.set_ylabel("ms")
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#aaaaaa")


def draw(results: list[dict]):
    """One row per result, one column per kind of computation."""
    plt.rcParams.update({"font.size": 10, "text.color": TEXT, "axes.labelcolor": TEXT,
                         "xtick.color": TEXT, "ytick.color": TEXT})
    columns = max(len(result["computations"]) for result in results)
    figure, grid = plt.subplots(len(results), columns, squeeze=False, sharey="row", dpi=150,
                                figsize=(5.2 * columns, 2.8 * len(results)), layout="constrained")
    for result, row in zip(results, grid):
        for way, axes in zip(result["computations"], row):
            draw_one(axes, result["label"], way)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=2)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("png", help="picture to write")
    parser.add_argument("json", nargs="+", help="results of bench_overlap, one row each")
    arguments = parser.parse_args()
    try:
        results = [json.load(open(path, encoding="utf-8")) for path in arguments.json]
        figure = draw(results)
    except (OSError, KeyError, ValueError) as error:
        sys.exit(f"plot_overlap: {error!r}")
    figure.savefig(arguments.png)


if __name__ == "__main__":
    main()
