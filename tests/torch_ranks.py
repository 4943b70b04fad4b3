"""Tests of zero1.torch that run on ranks.

    @on_ranks(1, 2, 3)
    def test_some_thing(comm, folder):
        ...

The body runs on every rank of a zero1.Comm, with a folder that all of them see, and what it returns is the same on
every rank and with each number of ranks. One rank is pytest's own process. More are processes of mpirun, or of
torchrun (then comm is None: torch.distributed is started): to import torch takes seconds, so one launch does all
tests of a session that take as many ranks. As a program, this file is one rank of such a launch."""

import contextlib
import gc
import hashlib
import importlib
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import traceback

import pytest

from python_case import ENVIRONMENT, LIBRARY

if not LIBRARY.exists():
    pytest.skip("libzero1.so is not built", allow_module_level=True)
torch = pytest.importorskip("torch", reason="PyTorch is not installed: scripts/test --with-torch")

import zero1
import zero1.torch
from zero1 import _mpi

torch.set_num_threads(1)

LAUNCHERS = {"mpirun": ["mpirun", "--oversubscribe", "-n"],
             "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]}
LAUNCH_SECONDS = 600
PEER_SECONDS = 60  #: that a rank waits for one which makes no progress


def optimizer_of(params, comm, **options):
    """A DistributedOptimizer on one thread."""
    return zero1.torch.DistributedOptimizer(params, comm=comm, threads=1, **options)


def bits_of(tensors) -> str:
    """The same for the same bits alone."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def same_bits(one, other) -> bool:
    return bits_of([one]) == bits_of([other])


def distance(tensors, others) -> float:
    """The largest difference of two elements, relative to the largest element of their tensor: where a step takes
    a parameter through zero, what is left of it is the rounding of numbers of that size."""
    pairs = [(one.detach(), other.detach()) for one, other in zip(tensors, others, strict=True) if one.numel()]
    return max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)


@contextlib.contextmanager
def raised(error, text: str, mine: bool = True):
    """Around what this rank is to raise, or, where the mistake is not `mine`, what its peers are to raise for it: at
    once, and not because they gave up waiting."""
    with pytest.raises(error if mine else zero1.Error, match=text if mine else None) as caught:
        yield caught
    assert not isinstance(caught.value, (zero1.TimeoutError, zero1.PeerError)), caught.value


# ---- in pytest ----


def _has_mpi() -> bool:
    try:
        return bool(shutil.which("mpirun") and _mpi.version_text())
    except zero1.UnsupportedError:
        return False


def launch(launcher: str, ranks: int, folder: pathlib.Path, tests: list[list[str]],
           keep_going: bool = False) -> subprocess.CompletedProcess:
    """Runs [module, name] one after the other on each rank: what became of them goes into the folder.
    [keep_going] a rank that fails does not make mpirun end the others."""
    if launcher == "mpirun" and not _has_mpi():
        pytest.skip("there is no mpirun, or libzero1 was built without MPI")
    (folder / "tests.json").write_text(json.dumps(tests))
    command = [*LAUNCHERS[launcher], str(ranks)]
    command += ["--enable-recovery"] if keep_going else []
    command += [sys.executable] if launcher == "mpirun" else []
    return subprocess.run([*command, __file__, launcher, str(folder)], env=ENVIRONMENT, capture_output=True,
                          text=True, timeout=LAUNCH_SECONDS, check=False)


def _results(folder: pathlib.Path, ranks: int) -> list[dict[str, dict]]:
    """By rank, what became of each test."""
    results = []
    for rank in range(ranks):
        file = folder / f"rank-{rank}.json"
        lines = file.read_text().splitlines() if file.exists() else []
        results.append({entry["test"]: entry for entry in map(json.loads, lines)})
    return results


def _run_all(launcher: str, ranks: int, tests: list[list[str]]) -> dict[str, list[dict]]:
    """What became of each test on each rank. One that ends its process takes the blame, and the others go on."""
    outcomes: dict[str, list[dict]] = {}
    while tests:
        with tempfile.TemporaryDirectory() as folder:
            ended = launch(launcher, ranks, pathlib.Path(folder), tests)
            results = _results(pathlib.Path(folder), ranks)
        for test in tests:
            name = ".".join(test)
            missing = {"error": f"it ended its process, or the launch:\n{ended.stdout}\n{ended.stderr}"}
            outcomes[name] = [result.get(name, missing) for result in results]
            if not all(name in result for result in results):
                break
        tests = [test for test in tests if ".".join(test) not in outcomes]
    return outcomes


_launched: dict[tuple[str, int], dict[str, list[dict]]] = {}
_returned: dict[str, object] = {}


def _outcomes(session: pytest.Session, launcher: str, ranks: int) -> dict[str, list[dict]]:
    if (launcher, ranks) not in _launched:
        functions = [item.function for item in session.items
                     if getattr(item, "function", None) is not None and
                     getattr(item.function, "launcher", None) == launcher and item.callspec.params["ranks"] == ranks]
        tests = [[function.__module__, function.__name__] for function in dict.fromkeys(functions)]
        _launched[launcher, ranks] = _run_all(launcher, ranks, tests)
    return _launched[launcher, ranks]


def on_ranks(*numbers: int, launcher: str = "mpirun"):
    """The decorator of this file's head."""
    def decorate(scene):
        name = f"{scene.__module__}.{scene.__name__}"

        @pytest.mark.parametrize("ranks", numbers)
        def test(request, tmp_path, ranks):
            if ranks == 1 and launcher == "mpirun":
                with zero1.Comm.self() as comm:
                    outcomes = [{"value": json.loads(json.dumps(scene(comm, tmp_path)))}]
            else:
                outcomes = _outcomes(request.session, launcher, ranks)[name]
            problems = [f"rank {rank}: {outcome['error']}" for rank, outcome in enumerate(outcomes)
                        if "error" in outcome]
            assert not problems, "\n".join(problems)
            for outcome in outcomes:
                assert outcome["value"] == _returned.setdefault(name, outcome["value"])

        test.__name__, test.__qualname__, test.__module__ = scene.__name__, scene.__qualname__, scene.__module__
        test.__doc__, test.scene, test.launcher = scene.__doc__, scene, launcher
        return test

    return decorate


# ---- on a rank ----


def _run(scene, launcher: str, folder: pathlib.Path):
    folder.mkdir(exist_ok=True)
    if launcher == "torchrun":
        torch.distributed.barrier()
        return scene(None, folder)
    with zero1.Comm.world(timeout_seconds=PEER_SECONDS) as comm:
        return scene(comm, folder)


def _run_caught(scene, launcher: str, folder: pathlib.Path) -> dict:
    """What it returned, or the text of what it raised."""
    try:
        return {"value": _run(scene, launcher, folder)}
    except (Exception, pytest.fail.Exception) as problem:
        text = traceback.format_exc()
        traceback.clear_frames(problem.__traceback__)  # peers see that this rank's optimizer is gone
        return {"error": text}


def main(launcher: str, folder: pathlib.Path) -> None:
    if launcher == "torchrun":
        torch.distributed.init_process_group("gloo")
        rank = torch.distributed.get_rank()
    else:
        with zero1.Comm.world() as comm:
            rank = comm.rank
    tests = [(module, name, getattr(importlib.import_module(module), name))
             for module, name in json.loads((folder / "tests.json").read_text())]
    gc.freeze()  # torch's own objects need not be looked at after each test
    for module, name, scene in tests:
        if not hasattr(scene, "scene"):  # alone in its launch: what it raises, nothing catches
            _run(scene, launcher, folder / name)
            continue
        outcome = _run_caught(scene.scene, launcher, folder / name)
        gc.collect()
        with open(folder / f"rank-{rank}.json", "a") as file:
            file.write(json.dumps({"test": f"{module}.{name}"} | outcome) + "\n")
    if launcher == "torchrun":
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]))
