"""What growth.py measured, as Markdown."""

from growth_sweeps import short, sweeps

COLUMNS = {
    "tensors": ("step_ms", "ratio_to_reference", "predicted", "step_to_limit", "ready_ns", "wait_ns",
                "create_ms", "create_us", "memory", "padding"),
    "numel": ("step_ms", "bytes", "predicted", "step_to_limit", "gbps", "create_ms", "memory"),
    "ranks": ("step_ms", "ratio_to_reference", "bytes", "predicted", "step_to_limit", "cpu_ms",
              "create_ms", "memory"),
    "threads": ("step_ms", "ratio_to_reference", "predicted", "step_to_limit", "cpu_ms", "gbps"),
    "bucket_numel": ("step_ms", "ratio_to_reference", "predicted", "first_ms", "cpu_ms"),
}
HEADS = {
    "step_ms": "step ms", "ratio_to_reference": "step / reference", "predicted": "by bytes ms",
    "step_to_limit": "step / limit", "ready_ns": "grad_ready ns", "wait_ns": "wait_param ns",
    "create_ms": "create ms", "create_us": "create us / tensor", "memory": "MiB per rank",
    "padding": "padding MiB", "bytes": "bytes / parameter", "gbps": "GB/s", "cpu_ms": "CPU ms",
    "first_ms": "first parameter ms",
}


def number(value: float) -> str:
    """Three digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def cell(row: dict, column: str) -> str:
    match column:
        case "predicted":
            return number(row["predicted_ms"])
        case "step_to_limit":
            return number(1 / row["ratio_to_limit"])
        case "ready_ns":
            return number(row["ready_ms"] * 1e6 / row["tensors"])
        case "wait_ns":
            return number(row["wait_ms"] * 1e6 / row["tensors"])
        case "create_us":
            return number(row["create_ms"] * 1e3 / row["tensors"])
        case "memory":
            return number(row["memory_bytes"] / 2**20)
        case "padding":
            return number(row["padding_bytes"] / 2**20)
        case "bytes":
            return str(row["bytes_per_param"])
        case "gbps":
            return number(row["achieved_gbps"])
        case _:
            return number(row[column])


def table(name: str, label: str, rows: list[dict]) -> list[str]:
    columns = COLUMNS[name]
    lines = [f"## {name.replace('_', ' ')}", "",
             "| | " + " | ".join([label, *(HEADS[column] for column in columns)]) + " |",
             "|---|" + "---:|" * (len(columns) + 1)]
    for row in rows:
        head = f"| {row['series']} | {short(row['value'])} | "
        if "left_out" in row:
            lines.append(head + f"left out: {row['left_out']} |" + " |" * (len(columns) - 1))
        else:
            lines.append(head + " | ".join(cell(row, column) for column in columns) + " |")
    return lines


def markdown(found: dict) -> str:
    """Of the object in growth.json."""
    machine, reference = found["machine"], found["reference"]
    lines = ["# Cost as the work grows", ""]
    lines.append(f"Written by `benchmarks/growth.py`{' --quick: its times say nothing' if found['quick'] else ''}. "
                 f"The reference, which runs in the same minute as each point: {short(reference['numel'])} fp32 "
                 f"parameters in one tensor, {reference['ranks']} ranks of one thread, two passes. By "
                 "bytes: what a step reads and writes, at the speed of the plain loop beside the "
                 "reference. Limit: the same loop over the point's own memory. CPU: of all ranks. "
                 "Medians.")
    if machine:
        lines += ["", f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']:.0f} GiB, "
                      f"{machine['kernel']}, {machine['compiler']}, {machine['mpi']}; {machine['isa']} "
                      f"kernels; more threads than {machine['cores']} share the cores. Transparent huge "
                      f"pages: {machine['huge_pages']}, in shared memory: {machine['shared_huge_pages']}, "
                      "where the library asks page by page."]
    for sweep in sweeps(found["quick"]):
        rows = [row for row in found["points"] if row["sweep"] == sweep.name]
        if rows:
            lines += ["", *table(sweep.name, sweep.label, rows)]
    return "\n".join(lines) + "\n"
