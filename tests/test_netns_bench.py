"""scripts/netns_bench: what it says to bad input and to machines that permit no namespaces, and what its
table makes of results. What it measures is a test of ctest's: netns_bench."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "netns_bench"
RESULT = {"hosts": 2, "ranks_per_host": 1, "nominal_gbits": 1, "delay_ms": 0, "raw_gbits": 0.95,
          "step_ms": 150.0, "exchange_ms": 72.0, "gather_ms": 73.0, "sent_bytes": 16.8e6,
          "wire_bytes": 16.7e6, "limit_ms": 141.0, "efficiency": 0.94, "nominal_efficiency": 0.89,
          "mpi_fp32_ms": 700.0, "speedup_vs_mpi_fp32": 4.7, "mpi_16bit_ms": None,
          "speedup_vs_mpi_16bit": None, "grad_dtype": "bf16", "param_dtype": "bf16", "numel": 8 << 20,
          "steps": 9, "cpu": "a CPU", "cores": 2, "memory_gib": 8.0, "kernel": "Linux", "compiler": "GCC",
          "mpi": "MPI"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(SCRIPT), *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("arguments, said", [
    (["--hots", "2"], "--hots: no such option"),
    (["--hosts"], "--hosts: a value is missing"),
    (["--hosts", "1"], "--hosts: '1' is not"),
    (["--hosts", "2,17"], "--hosts: '2,17' is not"),
    (["--ranks", "0"], "--ranks: '0' is not"),
    (["--rates", "fast"], "--rates: 'fast' is not"),
    (["--rates", "0"], "--rates: '0' is not"),
    (["--delays", "1,"], "--delays: '1,' is not"),
    (["--"], "--: a command is missing"),
])
def test_bad_options_are_named(arguments: list[str], said: str) -> None:
    result = run(*arguments)
    assert result.returncode == 1
    assert said in result.stderr


def test_help_lists_every_option() -> None:
    result = run("--help")
    assert result.returncode == 0
    for option in ("--quick", "--hosts", "--ranks", "--rates", "--delays", "--out", "--kill", "--built"):
        assert option in result.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to become nobody")
def test_without_root_it_is_skipped_with_a_reason(tmp_path: pathlib.Path) -> None:
    copy = tmp_path / "scripts"  # the checkout may not be nobody's to read
    copy.mkdir()
    (copy / "netns_bench").write_bytes(SCRIPT.read_bytes())
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    result = subprocess.run(["setpriv", "--reuid", "65534", "--clear-groups", "bash",
                             str(copy / "netns_bench"), "--quick", "--built", str(tmp_path)],
                            capture_output=True, text=True, timeout=60, check=False, cwd="/")
    assert result.returncode == 77, result.stderr
    assert "as root" in result.stderr or "there is no" in result.stderr


def table(folder: pathlib.Path, target: pathlib.Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(ROOT / "benchmarks/network/results.py"), str(folder),
                           str(target)], capture_output=True, text=True, timeout=60, check=False)


def test_table_sorts_configurations_and_leaves_out_what_is_unknown(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "network"
    folder.mkdir()
    for hosts in (4, 2):
        (folder / f"{hosts}.json").write_text(json.dumps(RESULT | {"hosts": hosts}), encoding="utf-8")
    result = table(folder, tmp_path / "network.json")
    assert result.returncode == 0, result.stderr
    rows = [line for line in result.stdout.splitlines() if line.startswith("| ")][1:]
    assert [row.split("|")[1].strip() for row in rows] == ["2 x 1", "4 x 1"]
    assert rows[0].rstrip().endswith("| 4.7 |  |  |")
    assert [entry["hosts"] for entry in json.loads((tmp_path / "network.json").read_text())] == [2, 4]


def test_table_of_nothing_is_an_error(tmp_path: pathlib.Path) -> None:
    result = table(tmp_path, tmp_path / "network.json")
    assert result.returncode == 1
    assert "nothing was measured" in result.stderr
    assert not (tmp_path / "network.json").exists()
