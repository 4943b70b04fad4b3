"""Draws how much of the wire's limit each side of network.json reaches."""

import json
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

GRID, TEXT = "#e6e6e6", "#333333"
SIDES = [("zero1, bf16", "step_ms", "#4c78a8"), ("MPI, 16-bit sums", "mpi_16bit_ms", "#f2a65a"),
         ("MPI, fp32", "mpi_fp32_ms", "#e45756")]


def draw_rate(axes, results: list[dict]) -> None:
    width = 0.27
    for index, (label, key, colour) in enumerate(SIDES):
        shown = [(place, result["efficiency"] if key == "step_ms" else result["limit_ms"] / result[key])
                 for place, result in enumerate(results) if result[key]]
        bars = axes.bar([place + (index - 1) * width for place, _ in shown],
                        [value for _, value in shown], width * 0.92, color=colour, label=label)
        axes.bar_label(bars, fmt="%.2f", fontsize=8, padding=2, color=TEXT)
    axes.axhline(1, color="#888888", linewidth=1, linestyle="--")
    axes.set_xticks(range(len(results)),
                    [f"{result['hosts']} hosts\n{result['ranks_per_host']} rank"
                     f"{'s' if result['ranks_per_host'] > 1 else ''} each"
                     + (f"\n{result['delay_ms']:g} ms" if result["delay_ms"] else "")
                     for result in results], fontsize=9)
    axes.set_title(f"{results[0]['nominal_gbits']:g} Gbit/s", loc="left", fontsize=11)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#aaaaaa")


def main() -> None:
    results = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
    rates = sorted({result["nominal_gbits"] for result in results})
    plt.rcParams.update({"font.size": 10, "text.color": TEXT, "axes.labelcolor": TEXT,
                         "xtick.color": TEXT, "ytick.color": TEXT})
    figure, all_axes = plt.subplots(1, len(rates), figsize=(2 + 4.2 * len(rates), 4.4), dpi=150,
                                    layout="constrained", sharey=True, squeeze=False)
    for axes, rate in zip(all_axes[0], rates):
        draw_rate(axes, [result for result in results if result["nominal_gbits"] == rate])
    all_axes[0][0].set_ylim(0, 1.2)
    all_axes[0][0].set_ylabel("wire's limit for 16 bits / time of a step")
    figure.suptitle("A step over TCP: how much of the wire each way reaches (1: raw streams, nothing else)",
                    fontsize=12)
    figure.legend(*all_axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3,
                  frameon=False)
    figure.savefig(sys.argv[2])


main()
