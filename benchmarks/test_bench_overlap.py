"""Runs the command that it is given, with --json FILE added, and checks the object in FILE."""

import json
import math
import subprocess
import sys
import tempfile

KEYS = """world_size ranks_per_node backend threads numel tensors param_dtype grad_dtype clip
bucket_numel overlap length steps communication_ms exchange_ms gather_ms step_ms computations cpu cores
memory_gib kernel compiler mpi""".split()


def check_computation(way: dict, bucket_count: int) -> None:
    assert way["hidden_q1"] <= way["hidden"] <= way["hidden_q3"]
    assert way["computation_ms"] > 0 and way["step_ms"] > 0
    buckets = way["buckets"]
    assert [bucket["bucket"] for bucket in buckets] == list(range(bucket_count))
    for stage in ("exchange", "gather"):
        exposed = [bucket[f"{stage}_exposed_ms"] for bucket in buckets]
        for bucket in buckets:
            assert bucket[f"{stage}_ms"] > 0
            assert 0 <= bucket[f"{stage}_exposed_ms"] <= bucket[f"{stage}_ms"] * (1 + 1e-4)
        total = way[f"exposed_{stage}_ms"]
        assert math.isclose(sum(exposed), total, rel_tol=1e-3, abs_tol=1e-6), (stage, total)


def main() -> None:
    command = sys.argv[1:]
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        subprocess.run([*command, "--json", file.name], check=True)
        result = json.load(open(file.name, encoding="utf-8"))
    missing = [key for key in KEYS if key not in result]
    assert not missing, f"missing keys: {missing}"
    assert result["communication_ms"] > 0 and result["step_ms"] > 0
    assert [way["computation"] for way in result["computations"]] == ["timers", "busy"]
    bucket_count = len(result["computations"][0]["buckets"])
    assert bucket_count >= result["numel"] / result["bucket_numel"]
    for way in result["computations"]:
        check_computation(way, bucket_count)

    for option, text in ((["--length", "0"], "--length: '0'"),
                         (["--no-timers", "--no-busy"], "--no-timers and --no-busy")):
        refused = subprocess.run([*command, *option], capture_output=True, text=True)
        assert refused.returncode != 0 and text in refused.stderr, refused.stderr


main()
