"""Gathers what bench_network wrote, one JSON file per configuration, into one, and prints a table."""

import json
import pathlib
import sys

HEADER = ["hosts x ranks", "Gbit/s", "delay ms", "raw Gbit/s", "step ms", "exchange ms", "gather ms",
          "sent MB", "wire MB", "limit ms", "limit / step", "of nominal", "MPI fp32 ms", "MPI fp32 / step",
          "MPI 16-bit ms", "MPI 16-bit / step"]


def cell(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def row(result: dict) -> list[str]:
    return [
        f"{result['hosts']} x {result['ranks_per_host']}",
        f"{result['nominal_gbits']:g}",
        f"{result['delay_ms']:g}",
        cell(result["raw_gbits"], 2),
        cell(result["step_ms"], 1),
        cell(result["exchange_ms"], 1),
        cell(result["gather_ms"], 1),
        cell(result["sent_bytes"] / 1e6, 1),
        cell(result["wire_bytes"] / 1e6, 1),
        cell(result["limit_ms"], 1),
        cell(result["efficiency"], 2),
        cell(result["nominal_efficiency"], 2),
        cell(result["mpi_fp32_ms"], 1),
        cell(result["speedup_vs_mpi_fp32"], 1),
        cell(result["mpi_16bit_ms"], 1),
        cell(result["speedup_vs_mpi_16bit"], 1),
    ]


def main() -> None:
    folder, target = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    results = [json.loads(file.read_text(encoding="utf-8")) for file in folder.glob("*.json")]
    if not results:
        raise SystemExit(f"{folder}: nothing was measured")
    results.sort(key=lambda result: (result["delay_ms"], result["nominal_gbits"], result["hosts"],
                                     result["ranks_per_host"]))
    target.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    first = results[0]
    sizes = sorted({(result["nominal_gbits"], result["numel"]) for result in results})
    print("# A step over a network\n")
    print("Hosts are network namespaces of one machine, their links shaped to the rate each way; "
          f"{first['grad_dtype']} gradients and parameters, "
          + ", ".join(f"{numel / 2**20:g} Mi elements at {rate:g} Gbit/s" for rate, numel in sizes)
          + f"; medians of {first['steps']} repetitions in which every side takes turns, ratios of "
          "pairs. Written by `scripts/netns_bench`.\n")
    print(f"{first['cpu']}, {first['cores']} cores for all hosts together, {first['memory_gib']:.0f} GiB, "
          f"{first['kernel']}, {first['compiler']}, {first['mpi']}.\n")
    print("| " + " | ".join(HEADER) + " |")
    print("|" + "---:|" * len(HEADER))
    for result in results:
        print("| " + " | ".join(row(result)) + " |")
    print("\nRaw: TCP streams from each host to the next, all at once, in the same run. Limit: (h - 1)/h of "
          "16-bit gradients and as much of parameters, h hosts, at the raw rate; nominal: at the links' "
          "rate. Sent: by the host that sends most, as its interface counts. MPI fp32: "
          "MPI_Reduce_scatter_block, AdamW, MPI_Allgather; MPI 16-bit: the same, sums rounded to bf16 after "
          "each addition.")
    if all(result["delay_ms"] == 0 for result in results):
        print("\nNo configuration has a delay where the kernel has no netem.")


main()
