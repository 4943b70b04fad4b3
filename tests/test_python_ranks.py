"""The package zero1 on 1, 2 and 3 ranks under mpirun, without mpi4py: tests/python_ranks.py has what each rank
does. And examples/train_numpy.py."""

import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from python_case import ENVIRONMENT, ROOT, needs_library

pytestmark = [needs_library, pytest.mark.skipif(not shutil.which("mpirun"), reason="there is no mpirun")]


def run(ranks: int, program: str, *arguments: object) -> subprocess.CompletedProcess:
    command = ["mpirun", "-n", str(ranks), "--oversubscribe", sys.executable, str(ROOT / program),
               *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False)


def lines(ranks: int, scenario: str, folder: pathlib.Path) -> list[str]:
    """What each rank printed, in rank order, of a run in which none failed."""
    ended = run(ranks, "tests/python_ranks.py", scenario, folder)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    printed = dict(re.findall(r"^rank (\d+): (.*)$", ended.stdout, re.M))
    assert sorted(printed) == [str(rank) for rank in range(ranks)], ended.stdout + ended.stderr
    return [printed[str(rank)] for rank in range(ranks)]


def test_any_number_of_ranks_trains_to_the_same_bits(tmp_path):
    results = set()
    for ranks in (1, 2, 3):
        printed = lines(ranks, "trains", tmp_path)
        assert sum(int(line.rsplit(" ", 1)[1]) for line in printed) == 904
        results |= {line.rsplit(" owned", 1)[0] for line in printed}
    assert len(results) == 1 and "count 3" in results.pop()


def test_ranks_are_introduced_without_mpi(tmp_path):
    assert lines(2, "without_mpi", tmp_path) == lines(2, "trains", tmp_path)


def test_children_of_a_rank_end_without_it(tmp_path):
    """Forked processes, those of a data loader for one: they have the rank's optimizer, and leave it alone."""
    results = [re.sub("norm .* params", "params", line).split(" owned")[0] for line in lines(2, "trains", tmp_path)]
    assert lines(2, "forks", tmp_path) == results


def test_a_checkpoint_goes_on_at_other_numbers_of_ranks(tmp_path):
    whole = set(lines(2, "saves", tmp_path))
    assert len(whole) == 1
    for ranks in (1, 3):
        assert set(lines(ranks, "resumes", tmp_path)) == whole


@pytest.mark.parametrize("scenario, ranks", [("lists_that_differ", 2), ("bad_argument_on_one_rank", 3),
                                             ("bad_number_on_one_rank", 2)])
def test_one_ranks_mistake_is_everyones_exception_and_training_goes_on(tmp_path, scenario, ranks):
    assert lines(ranks, scenario, tmp_path) == ["count 1"] * ranks


def test_an_exception_on_one_rank_within_a_step_is_raised_on_all(tmp_path):
    assert lines(3, "exception_within_a_step", tmp_path) == ["raised"] * 3


def test_an_exception_that_nothing_catches_leaves_no_rank_waiting(tmp_path):
    ended = run(2, "tests/python_ranks.py", "exception_that_nothing_catches", tmp_path)
    assert ended.returncode != 0
    assert "ArithmeticError: rank 1 ends" in ended.stderr
    assert "Segmentation" not in ended.stderr


def test_dropped_communicators_and_optimizers_leave_nothing(tmp_path):
    shared = pathlib.Path("/dev/shm")
    before = {path.name for path in shared.glob("*zero1*")}
    assert lines(2, "drops", tmp_path) == ["nothing is left"] * 2
    assert {path.name for path in shared.glob("*zero1*")} <= before


def losses(ended: subprocess.CompletedProcess) -> list[float]:
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return [float(loss) for loss in re.findall(r"loss ([0-9.]+)", ended.stdout)]


def test_the_example_learns_and_goes_on_as_if_it_had_not_stopped(tmp_path):
    whole = losses(run(2, "examples/train_numpy.py", "--steps", 120))
    assert whole[-1] < whole[0] / 3
    first = losses(run(2, "examples/train_numpy.py", "--steps", 60, "--checkpoint", tmp_path / "root"))
    second = losses(run(2, "examples/train_numpy.py", "--steps", 120, "--checkpoint", tmp_path / "root"))
    assert first + second == whole
    third = run(3, "examples/train_numpy.py", "--steps", 140, "--checkpoint", tmp_path / "root")
    assert losses(third)[0] < whole[0] / 3 and "goes on from step 120" in third.stdout
