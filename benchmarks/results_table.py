"""Prints the results in a folder, one JSON file of bench_step per case, as Markdown."""

import json
import pathlib
import sys

CASES = """one_pass two_passes bf16_one_pass bf16_two_passes private_params between_nodes tensors_one
tensors_many""".split()
HEADER = ["case", "params / grads", "clip", "tensors", "step ms", "GB/s", "limit GB/s", "limit / step",
          "MPI ms", "MPI / step", "create ms", "MB per rank", "padding MB"]


def cell(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def row(name: str, result: dict) -> list[str]:
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


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    results = {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
               for name in CASES if (folder / f"{name}.json").exists()}
    first = next(iter(results.values()))
    print("# A step on this machine\n")
    print(f"{first['world_size']} ranks, {first['threads']} thread each, {first['isa']} kernels; "
          f"{first['numel']:,} elements (tensors: {results['tensors_one']['numel']:,}); medians of "
          f"{first['steps']} repetitions, ratios of pairs. Written by `scripts/bench`.\n")
    print(f"{first['cpu']}, {first['cores']} cores, {first['memory_gib']:.0f} GiB, "
          f"{first['kernel']}, {first['compiler']}, {first['mpi']}; transparent huge pages: "
          f"{first['huge_pages']}, in shared memory: {first['shared_huge_pages']}.\n")
    print("| " + " | ".join(HEADER) + " |")
    print("|---|---|" + "---:|" * (len(HEADER) - 2))
    for name, result in results.items():
        print("| " + " | ".join(row(name, result)) + " |")
    one, many = results["tensors_one"], results["tensors_many"]
    print(f"\nA step of {many['tensors']:,} tensors takes {many['step_ms'] / one['step_ms']:.2f} times "
          "that of one tensor with as many elements; with each step measured in limits, which are the "
          "same loop in both cases, so that the machine's drift from one case to the next drops out, "
          f"{one['ratio_to_limit'] / many['ratio_to_limit']:.2f} times.")


main()
