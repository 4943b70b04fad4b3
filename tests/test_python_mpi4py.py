"""Communicators of mpi4py: its world and its splits under mpirun, and an mpi4py on another MPI, which is refused."""

import importlib.util
import subprocess
import sys
import types

import pytest

from python_case import ENVIRONMENT, needs_library
from test_python_ranks import lines
import zero1
from zero1 import _mpi

pytestmark = needs_library


def our_mpi() -> str:
    """"": libzero1 has none."""
    try:
        return _mpi.version_text()
    except zero1.UnsupportedError:
        return ""


def why_not() -> str:
    """Why mpi4py is not tried here; "" where it is. Asked of another process: it starts MPI."""
    if not our_mpi():
        return "libzero1 was built without MPI"
    if not importlib.util.find_spec("mpi4py"):
        return "mpi4py is not installed: scripts/python_deps mpi4py"
    program = "from mpi4py import MPI; print(MPI.Get_library_version())"
    ended = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True,
                           check=False)
    if ended.returncode:
        return "mpi4py does not start: " + ended.stderr.strip()[-200:]
    theirs = ended.stdout.rstrip("\0\n").strip()
    return "" if theirs == our_mpi() else f"mpi4py is of {theirs!r:.80}, libzero1 of {our_mpi()!r:.80}"


@pytest.fixture
def mpi4py():
    reason = why_not()
    if reason:
        pytest.skip(reason)


def test_the_world_of_mpi4py_trains_to_the_bits_of_ours(mpi4py, tmp_path):
    assert lines(2, "mpi4py_trains", tmp_path) == lines(2, "trains", tmp_path)


def test_ranks_that_mpi4py_has_split_are_worlds_of_their_own(mpi4py, tmp_path):
    first, alone, last = lines(3, "mpi4py_splits", tmp_path)
    assert first.startswith("1 of 2: ") and alone.startswith("0 of 1: ") and last.startswith("0 of 2: ")
    results = {line.split(": ")[1].rsplit(" owned", 1)[0] for line in (first, alone, last)}
    assert results == {lines(1, "trains", tmp_path)[0].rsplit(" owned", 1)[0]}


def test_mpi4py_takes_the_mpi_that_was_started_without_it(mpi4py, tmp_path):
    assert lines(2, "mpi4py_trains", tmp_path) == lines(2, "later_with_mpi4py", tmp_path)


class FakeMpi4py:
    """mpi4py.MPI, as far as it is asked."""

    def __init__(self, version: str, started: bool):
        self.version, self.started = version, started

    def Get_library_version(self) -> str:
        return self.version

    def Is_initialized(self) -> bool:
        return self.started


@pytest.mark.skipif(not our_mpi(), reason="libzero1 was built without MPI")
def test_an_mpi4py_on_another_mpi_is_refused_with_both_named(monkeypatch):
    other = FakeMpi4py("Other MPI 9.9", True)
    monkeypatch.setitem(sys.modules, "mpi4py", types.SimpleNamespace(MPI=other))
    with pytest.raises(zero1.MismatchError) as raised:
        zero1.Comm.from_mpi4py(None)
    assert "Other MPI 9.9" in str(raised.value) and _mpi.version_text()[:20] in str(raised.value)
    other.version = _mpi.version_text()
    with pytest.raises(zero1.MismatchError, match="two copies"):
        zero1.Comm.from_mpi4py(None)
