"""Runs the command that it is given, with --json FILE added, and checks the object in FILE."""

import json
import pathlib
import subprocess
import sys
import tempfile

KEYS = """world_size backend threads numel tensors param_dtype clip rounds filesystem bytes plain_write_ms
save_ms write_ratio write_ms hash_ms commit_ms xxh3_gbps plain_read_ms load_ms read_ratio cached_plain
cached_load length_ms background snapshot_mib snapshot_called memory cpu cores memory_gib kernel
compiler mpi""".split()


def check_background(way: dict, length_ms: float) -> None:
    for key in ("step_ms", "with_ms", "write_ms", "stall_ms", "stalled", "stall_seen"):
        assert way[f"{key}_q1"] <= way[key] <= way[f"{key}_q3"], key
    assert way["step_ms"] >= length_ms * 0.99 and way["with_ms"] >= length_ms * 0.99
    assert way["write_ms"] > 0 and way["stall_ms"] >= 0
    assert (way["copy_ms"] > 0) == (way["mode"] == "snapshot"), way


def check(result: dict) -> None:
    missing = [key for key in KEYS if key not in result]
    assert not missing, f"missing keys: {missing}"
    element = 12  # bytes: the master and two moments
    assert element * result["numel"] < result["bytes"] < element * result["numel"] + 100000, result
    for key in ("plain_write_ms", "save_ms", "write_ratio", "plain_read_ms", "load_ms", "read_ratio"):
        assert 0 < result[f"{key}_q1"] <= result[key] <= result[f"{key}_q3"], key
    assert 0 < result["hash_ms"] < result["write_ms"] < result["save_ms"]
    assert 0 <= result["cached_plain"] <= 1 and 0 <= result["cached_load"] <= 1
    assert [way["mode"] for way in result["background"]] == ["pinned", "snapshot"]
    for way in result["background"]:
        check_background(way, result["length_ms"])
    assert result["snapshot_mib"] > 0
    memory = {of["mode"]: of["own_mib"] for of in result["memory"]}
    assert list(memory) == ["save", "load", "pinned", "snapshot"]
    assert all(0 <= memory[mode] <= 64 for mode in ("save", "load", "pinned")), memory


def main() -> None:
    command = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "results.json"
        subprocess.run([*command, "--dir", folder, "--json", str(file)], check=True)
        result = json.loads(file.read_text(encoding="utf-8"))
        left = [path.name for path in pathlib.Path(folder).iterdir() if path != file]
        assert not left, f"left behind: {left}"
    check(result)

    for option, text in ((["--rounds", "0"], "--rounds: '0'"),
                         (["--dir", "/nowhere"], "/nowhere: No such file or directory")):
        refused = subprocess.run([*command, *option], capture_output=True, text=True)
        assert refused.returncode != 0 and text in refused.stderr, refused.stderr


main()
