"""Runs the command that it is given, with --json FILE added, and checks the object in FILE."""

import json
import math
import subprocess
import sys
import tempfile

KEYS = """world_size numel tensors param_dtype grad_dtype clip
step_ms reduce_ms update_ms gather_ms first_ms wait_ms cpu_ms
bytes_moved achieved_gbps limit_gbps limit_ms ratio_to_limit mpi_baseline_ms speedup_vs_mpi
memory_bytes padding_bytes create_ms step_ms_q1 step_ms_q3 ranks_per_node backend isa threads cpu cores
memory_gib kernel compiler mpi""".split()


def main() -> None:
    command = sys.argv[1:]
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        subprocess.run([*command, "--json", file.name], check=True)
        result = json.load(open(file.name, encoding="utf-8"))
    missing = [key for key in KEYS if key not in result]
    assert not missing, f"missing keys: {missing}"
    assert result["world_size"] == 2
    assert result["step_ms_q1"] <= result["step_ms"] <= result["step_ms_q3"]
    assert 0 < result["first_ms"] <= result["step_ms_q3"] and result["cpu_ms"] > 0
    assert result["step_ms"] > 0 and result["limit_ms"] > 0
    assert (result["mpi_baseline_ms"] is None) == ("--no-baseline" in command)
    if "1" == command[command.index("--ranks-per-node") + 1 if "--ranks-per-node" in command else 0]:
        wires = 2 + 2 if "--grad-wire" in command else 4 + 4  # bytes of an element, each way
        assert abs(result["sent_bytes"] / (result["numel"] * wires / 2) - 1) < 0.02
    achieved = result["bytes_moved"] / result["step_ms"] * 1e-6
    assert math.isclose(achieved, result["achieved_gbps"], rel_tol=1e-4)

    refused = subprocess.run([*command, "--tensors", "many"], capture_output=True, text=True)
    assert refused.returncode != 0 and "--tensors: 'many'" in refused.stderr, refused.stderr


main()
