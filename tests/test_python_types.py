"""The package's annotations, which its users' type checkers read (py.typed)."""

import importlib.util
import subprocess
import sys

import pytest

from python_case import ROOT

PACKAGE = ROOT / "python" / "zero1"


@pytest.mark.skipif(not importlib.util.find_spec("mypy"), reason="mypy is not installed: scripts/python_deps mypy")
def test_mypy_finds_nothing_in_what_needs_numpy_alone(tmp_path):
    modules = [path for path in PACKAGE.glob("*.py") if "torch" not in path.name]
    ended = subprocess.run([sys.executable, "-m", "mypy", "--strict", "--follow-imports", "silent", "--cache-dir",
                            tmp_path, *modules], cwd=ROOT / "python", capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (PACKAGE / "py.typed").exists()
