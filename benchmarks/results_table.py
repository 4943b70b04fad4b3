"""Prints the results in a folder as Markdown: one JSON file of bench_step per case, one of
compare.py per part, one of torch_training.py, one of bench_checkpoint, and the plots beside them."""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

CASES = """one_pass two_passes bf16_one_pass bf16_two_passes private_params between_nodes tensors_one
tensors_many""".split()
HEADER = [
    "case", "params / grads", "clip", "tensors", "step ms", "GB/s", "limit GB/s", "limit / step",
    "MPI ms", "MPI / step", "create ms", "MB per rank", "padding MB"
]
PARTS = {"peers": "A step", "peers_bf16": "A step in bf16, with clipping and fp32 masters",
         "kernels": "The update alone", "sizes": "A step against its size",
         "ranks": "A step against the ranks"}  # yapf: disable
PLOTS = {"peers_bf16": "peers", "peers": "peers"}  # one picture of both, after the second


def cell(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def table(header: list[str], texts: int, rows: list[list[str]]) -> None:
    """The first `texts` columns are left, the others right."""
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * texts + "---:|" * (len(header) - texts))
    for row in rows:
        print("| " + " | ".join(row) + " |")


# ---- bench_step ----


def step_row(name: str, result: dict[str, Any]) -> list[str]:
    return [
        name.replace("_", " "),
        f"{result['param_dtype']} / {result['grad_dtype']}",
        f"{result['clip']:g}" if result["clip"] else "off",
        f"{result['tensors']:,}",
        cell(result["step_ms"], 1),
        cell(result["achieved_gbps"], 1),
        cell(result["limit_gbps"], 1),
        cell(result["ratio_to_limit"], 2),
        cell(result["mpi_baseline_ms"], 1),
        cell(result["speedup_vs_mpi"], 1),
        cell(result["create_ms"], 0),
        cell(result["memory_bytes"] / 1e6, 0),
        cell(result["padding_bytes"] / 1e6, 0),
    ]


def print_steps(results: dict[str, dict[str, Any]]) -> None:
    first = next(iter(results.values()))
    tensors = f" (tensors: {results['tensors_one']['numel']:,})" if "tensors_one" in results else ""
    print("# A step on this machine\n")
    print(f"{first['world_size']} ranks, {first['threads']} thread each, {first['isa']} kernels; "
          f"{first['numel']:,} elements{tensors}; medians of "
          f"{first['steps']} repetitions, ratios of pairs. Written by `scripts/bench`.\n")
    print(f"{first['cpu']}, {first['cores']} cores, {first['memory_gib']:.0f} GiB, "
          f"{first['kernel']}, {first['compiler']}, {first['mpi']}; transparent huge pages: "
          f"{first['huge_pages']}, in shared memory: {first['shared_huge_pages']}, where the "
          "library asks page by page.\n")
    table(HEADER, 2, [step_row(name, result) for name, result in results.items()])
    if "tensors_one" not in results or "tensors_many" not in results:
        return
    one, many = results["tensors_one"], results["tensors_many"]
    print(
        f"\nA step of {many['tensors']:,} tensors takes {many['step_ms'] / one['step_ms']:.2f} times "
        "that of one tensor with as many elements; with each step measured in limits, which are the "
        "same loop in both cases, so that the machine's drift from one case to the next drops out, "
        f"{one['ratio_to_limit'] / many['ratio_to_limit']:.2f} times.")


# ---- compare.py ----


def part_row(part: str, case: dict[str, Any], row: dict[str, Any]) -> list[str]:
    what = {"peers": [], "peers_bf16": [], "sizes": [f"{case['numel']:,}"], "ranks": [f"{case['ranks']}"],
            "kernels": [f"{case['dtype']}{', clip' if case['clip'] else ''}"]}[part]  # yapf: disable
    if "absent" in row:
        return [*what, row["label"], f"absent: {row['absent']}", "", ""]
    ratio = ["1", ""]
    if "ratio" in row:
        ratio = [cell(row["ratio"], 2), f"{row['ratio_q1']:.2f} to {row['ratio_q3']:.2f}"]
    return [*what, row["label"], cell(row["ms"], 2), *ratio]


def print_part(part: str, result: dict[str, Any]) -> None:
    first = result["cases"][0]
    varied = {"sizes": ["parameters"], "ranks": ["ranks"], "kernels": ["data"]}.get(part, [])
    numel = "" if part == "sizes" else f"{first['numel']:,} parameters in {first['tensors']} tensors; "
    ranks = f"{first['ranks']} ranks with " if part not in ("ranks", "kernels") else ""
    machine = f"{result['cpu']}, {result['cores']} cores; " if "cpu" in result else ""
    torch = f"PyTorch {result['torch']}; " if "torch" in result else ""
    first_of_all = ", before all other programs of the machine" if result.get("real_time") else ""
    print(f"\n## {PARTS[part]}\n")
    print(
        f"{numel}{ranks}{first['threads']} thread(s) each; {machine}{torch}medians of "
        f"{result['rounds']} "
        f"rounds of short runs that take turns{first_of_all}; how many times ours a time is, with the "
        "quartiles of the rounds.\n")
    table([*varied, "", "ms", "times ours", "quartiles"],
          len(varied) + 1,
          [part_row(part, case, row) for case in result["cases"] for row in case["subjects"]])


def print_parts(found: dict[str, dict[str, Any]], folder: pathlib.Path) -> None:
    parts = [part for part in PARTS if part in found]
    if not parts:
        return
    print("\n# Beside what one would take instead\n")
    print(
        "Gradients are there; a step reduces them over the ranks, updates, and leaves the new parameters on "
        "every rank. Every run checks what it computed. The programs are in `benchmarks/peers/`.")
    for at, part in enumerate(parts):
        print_part(part, found[part])
        plot = PLOTS.get(part, part)
        is_last = plot not in [PLOTS.get(later, later) for later in parts[at + 1:]]
        if is_last and (folder / f"{plot}.png").exists():
            print(f"\n![{PARTS[part]}]({plot}.png)")


# ---- torch_training.py ----


def torch_row(row: dict[str, Any]) -> list[str]:
    if "absent" in row:
        return [row["label"], f"absent: {row['absent']}", *[""] * 6]
    made = [row["label"], cell(row["steps_per_second"], 3)]
    for what, digits in (("train", 1), ("alone", 1)):
        is_ours = row["name"] == "zero1"
        made += [cell(row[f"{what}_ms"], digits), "1" if is_ours else cell(row[f"{what}_ratio"], 2),
                 "" if is_ours else f"{row[f'{what}_ratio_q1']:.2f} to {row[f'{what}_ratio_q3']:.2f}"]
    return made


def overhead_row(what: str, overhead: dict[str, Any], key: str) -> list[str]:
    def share(name: str) -> str:
        return f"{100 * overhead[f'{key}_share{name}']:.1f} %"

    return [what, cell(overhead[f"{key}_ms"], 1), share(""), f"{share('_q1')} to {share('_q3')}",
            f"{100 * overhead[f'{key}_ms'] / overhead['core_ms']:.0f} %"]


def print_torch(result: dict[str, Any], folder: pathlib.Path) -> None:
    print("\n# Training a model of PyTorch\n")
    if "absent" in result:
        print(f"Absent: {result['absent']}")
        return
    overhead = result["overhead"]
    first_of_all = ", before all other programs of the machine" if result["real_time"] else ""
    of_a_round = "a step each" if result["steps"] == 1 else f"{result['steps']} steps each"
    print(f"A GPT of {result['numel']:,} fp32 parameters in {result['tensors']} tensors "
          f"({result['blocks']} blocks, {result['width']} wide); {result['ranks']} ranks with {result['threads']} "
          f"thread(s) each, {result['batch'] * result['context']} tokens a rank and step; {result['cpu']}, "
          f"{result['cores']} cores; PyTorch {result['torch']}, gloo; all take turns within one run{first_of_all}: "
          f"medians of {result['rounds']} rounds, {of_a_round}; how many times ours a time is, with the "
          "quartiles of the rounds. Alone: communication and update, under a forward and backward that cost nothing; "
          f"{result['alone_rounds']} rounds. Every run checks what it computed.\n")
    table(["", "steps/s", "step ms", "times ours", "quartiles", "alone ms", "times ours", "quartiles"], 1,
          [torch_row(row) for row in result["subjects"]])
    if (folder / "torch.png").exists():
        print("\n![Training a model of PyTorch](torch.png)")
    print("\nWhat `zero1.torch` costs over the library's own calls, in parts of a training step and of these calls "
          f"alone with the gradients in the buffers, which take {overhead['core_ms']:.1f} ms. By hand: a training "
          "that makes the calls itself, with the model's parameters and gradients as views; it zeroes gradients, and "
          f"autograd adds to them: {overhead['by_hand_ms']:.1f} ms a step. Forward and backward alone take "
          f"{overhead['bare_ms']:.1f}. Where these cost nothing, gradients come from memory, which in training are "
          "still in a cache; so does the copy of every gradient into the buffers, taken by itself.\n")
    table(["", "ms", "of a step", "quartiles", "of the calls"], 1, [
        overhead_row("a step less forward and backward alone, less the calls alone", overhead, "over_parts"),
        overhead_row("a step less one by hand", overhead, "over_by_hand"),
        overhead_row("communication and update alone, less the calls alone", overhead, "alone"),
        overhead_row("the copy by itself", overhead, "copy"),
    ])  # yapf: disable


# ---- bench_checkpoint ----


def asked_row(what: str, result: dict[str, Any], key: str, asked: str) -> list[str]:
    return [what, cell(result[key], 3), f"{result[f'{key}_q1']:.3f} to {result[f'{key}_q3']:.3f}", asked]


def print_checkpoint(result: dict[str, Any]) -> None:
    pinned, snapshot = result["background"]
    memory = {of["mode"]: of["own_mib"] for of in result["memory"]}
    disk = result["filesystem"]
    if disk in ("tmpfs", "ramfs"):
        disk += ", which is memory and no disk"
    print("\n# Checkpoints\n")
    print(f"{result['numel']:,} parameters, {result['bytes'] / 1e6:,.0f} MB, {result['world_size']} ranks, "
          f"{disk}; {result['cpu']}, {result['cores']} cores; medians of {result['rounds']} runs that take "
          "turns. Plain: each rank writes the same bytes, 8 MiB a write, and flushes file and folder; "
          "or reads them. Before each read, ours and theirs, the page cache was dropped: of a file at "
          f"most {max(result['cached_plain'], result['cached_load']):.0%} was left in it. Every "
          "checkpoint was loaded after training had gone on, and compared bit for bit.\n")
    table(["", "ms", "MB/s", "plain ms", "MB/s", "plain / ours", "quartiles"], 1, [
        [what, cell(result[ours], 0), cell(result["bytes"] / 1e3 / result[ours], 0),
         cell(result[plain], 0), cell(result["bytes"] / 1e3 / result[plain], 0), cell(result[ratio], 2),
         f"{result[f'{ratio}_q1']:.2f} to {result[f'{ratio}_q3']:.2f}"]
        for what, ours, plain, ratio in (("save", "save_ms", "plain_write_ms", "write_ratio"),
                                         ("load", "load_ms", "plain_read_ms", "read_ratio"))])  # yapf: disable
    print(f"\nOf a save {result['write_ms']:.0f} ms were writing and flushing, of these "
          f"{result['hash_ms']:.0f} ms checksums ({result['hash_ms'] / result['write_ms']:.1%}; XXH3 "
          f"takes {result['xxh3_gbps']:.1f} GB/s on one thread), and {result['commit_ms']:.0f} ms "
          "waiting for the other rank, the manifest, and the rename.\n")
    print(f"A save in the background, under {result['length_ms']:.0f} ms of forward and backward "
          "(timers):\n")
    table(["", "median", "quartiles", "asked"], 1, [
        asked_row("pinned: updates waited / the write", pinned, "stalled", "at most 0.05"),
        asked_row("pinned: (step with it - without) / the write", pinned, "stall_seen", "at most 0.05"),
        asked_row("snapshot: (call - copy) / save", result, "snapshot_called", "at most 0.05"),
        asked_row("snapshot: the copy, ms", snapshot, "copy_ms", ""),
        asked_row("snapshot: updates waited, ms", snapshot, "stall_ms", "0"),
    ])  # yapf: disable
    print("\nMemory of a rank besides, at the most: "
          f"save {memory['save']:.0f} MiB, load {memory['load']:.0f}, pinned {memory['pinned']:.0f} (at "
          f"most 64 are asked), snapshot {memory['snapshot']:.0f}, of which its copy is "
          f"{result['snapshot_mib']:.0f}.")


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    found = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in folder.glob("*.json")
    }
    steps = {name: found[name] for name in CASES if name in found}
    if steps:
        print_steps(steps)
    print_parts(found, folder)
    if "torch" in found:
        print_torch(found["torch"], folder)
    if "checkpoint" in found:
        print_checkpoint(found["checkpoint"])


main()
