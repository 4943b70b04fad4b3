"""benchmarks/growth.py: its quick form end to end, what it predicts, and what it refuses."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ.get("ZERO1_BUILD", ROOT / "build"))
sys.path.insert(0, str(ROOT / "benchmarks"))

import growth
import growth_table
from growth_sweeps import Point, short, sweeps, whole

HAS_BENCH = (BUILD / "benchmarks" / "bench_step").exists()


def run_growth(*options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "benchmarks" / "growth.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def row_of(series: str, value: int, **others: float) -> dict:
    measured = {key: 1.0 for key in growth.MEASURED}
    return {"sweep": "tensors", "series": series, "value": value, "tensors": value,
            "predicted_ms": 1.0, "ratio_to_reference": 1.0} | measured | others


def results_of(*rows: dict) -> dict:
    return {"machine": {}, "quick": False, "reference": {"numel": 1 << 25, "ranks": 2},
            "points": list(rows)}


def test_a_number_may_have_a_suffix_and_gets_one():
    assert whole("4Mi") == 4194304 and whole("100000") == 100000
    assert short(4194304) == "4Mi" and short(100000) == "100,000"


def test_bytes_are_those_of_the_streams():
    assert Point(ranks=2, clip=False).bytes_per_param() == 2 * 4 + 24
    assert Point(ranks=1).bytes_per_param() == 4 + 4 + 24  # its gradients are their own sum
    assert Point(ranks=2).bytes_per_param() == 2 * 4 + 4 + 4 + 24
    assert Point(ranks=2, dtype="bf16").bytes_per_param() == 2 * 2 + 2 * 2 + 26  # read again
    assert Point(ranks=8, dtype="bf16").bytes_per_param() == 8 * 2 + 4 + 4 + 26


def test_a_tensor_of_320_elements_takes_two_blocks():
    assert Point(numel=320 * 10, tensors=10).padded_numel() == 512 * 10
    assert Point(numel=257 + 256, tensors=2).padded_numel() == 512 + 256


def test_every_sweep_varies_one_field():
    for sweep in sweeps(quick=False):
        for _, value, point in sweep.points():
            assert getattr(point, sweep.field) == value


def test_results_of_other_sweeps_stay_and_of_the_same_one_go(tmp_path):
    path = tmp_path / "growth.json"
    old = results_of(row_of("one pass", 1), row_of("one pass", 1) | {"sweep": "ranks"})
    path.write_text(json.dumps(old), encoding="utf-8")
    kept = growth.keep_others(path, results_of(row_of("one pass", 7)))
    assert [(row["sweep"], row["value"]) for row in kept["points"]] == [("tensors", 7), ("ranks", 1)]


def test_the_table_says_what_was_left_out_and_why():
    text = growth_table.markdown(results_of(row_of("one pass", 100, step_ms=12.34),
                                            {"sweep": "tensors", "series": "one pass",
                                             "value": 1000, "left_out": "9 GiB are needed"}))
    lines = [line for line in text.splitlines() if line.startswith("| one pass")]
    assert lines[0].startswith("| one pass | 100 | 12.3 |")
    assert "left out: 9 GiB are needed" in lines[1]
    assert lines[0].count("|") == lines[1].count("|")


def test_what_is_wrong_with_the_arguments_is_named(tmp_path):
    wrong = run_growth("--only", "colours")
    assert wrong.returncode == 2 and "'colours' is none of tensors" in wrong.stderr
    nowhere = run_growth("--build", str(tmp_path))
    assert nowhere.returncode == 2 and "is not there" in nowhere.stderr


@pytest.mark.skipif(not HAS_BENCH, reason="bench_step is not built")
def test_a_program_that_fails_fails_the_sweep_and_leaves_no_file(tmp_path):
    program = tmp_path / "build" / "benchmarks" / "bench_step"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho wrong result: of a test >&2\nexit 1\n", encoding="utf-8")
    program.chmod(0o755)
    run = run_growth("--quick", "--no-plots", "--build", str(tmp_path / "build"), "--out", str(tmp_path / "out"))
    assert run.returncode == 1 and "wrong result: of a test" in run.stderr
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.skipif(not HAS_BENCH, reason="bench_step is not built")
def test_the_quick_form_measures_every_point_and_writes_all_of_it(tmp_path):
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        plots = ["--no-plots"]
    else:
        plots = []
    run = run_growth("--quick", "--build", str(BUILD), "--out", str(tmp_path), *plots)
    assert run.returncode == 0, run.stderr
    found = json.loads((tmp_path / "growth.json").read_text(encoding="utf-8"))
    expected = [(sweep.name, series, value) for sweep in sweeps(quick=True)
                for series, value, _ in sweep.points()]
    assert [(row["sweep"], row["series"], row["value"]) for row in found["points"]] == expected
    assert all(row["step_ms"] > 0 and row["cpu_ms"] > 0 for row in found["points"])
    table = (tmp_path / "growth.md").read_text(encoding="utf-8")
    assert table.count("\n## ") == len(sweeps(quick=True))
    if not plots:
        assert len(list(tmp_path.glob("growth_*.png"))) == len(sweeps(quick=True))
