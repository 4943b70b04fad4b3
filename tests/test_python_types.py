"""The package's annotations, which its users' type checkers read (py.typed)."""

import importlib.util
import pathlib
import subprocess
import sys

import pytest

from python_case import ROOT

PACKAGE = ROOT / "python" / "zero1"

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("mypy"),
                                reason="mypy is not installed: scripts/python_deps mypy")


def assert_mypy_finds_nothing(cache: pathlib.Path, *targets: object) -> None:
    """As python/pyproject.toml has it: strictly."""
    ended = subprocess.run([sys.executable, "-m", "mypy", "--cache-dir", cache, *targets], cwd=ROOT / "python",
                           capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_mypy_finds_nothing_in_what_needs_numpy_alone(tmp_path):
    assert_mypy_finds_nothing(tmp_path, *PACKAGE.glob("*.py"))
    assert (PACKAGE / "py.typed").exists()


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="PyTorch is not installed: scripts/test --with-torch")
def test_mypy_finds_nothing_in_what_takes_torch(tmp_path):
    assert_mypy_finds_nothing(tmp_path, *PACKAGE.glob("torch/*.py"))
