"""examples/train_torch.py: the two optimizers agree, and a run that is resumed goes on as if it had not ended."""

import filecmp
import importlib.util
import json
import os
import pathlib
import random
import shutil
import socket
import subprocess
import sys

import pytest

from python_case import ENVIRONMENT, ROOT
from torch_ranks import torch
import zero1

EXAMPLE = ROOT / "examples" / "train_torch.py"
MODEL = ("--layers", "1", "--dim", "32", "--heads", "2", "--context", "16", "--batch", "4", "--warmup", "5",
         "--val-every", "10", "--val-windows", "8")
ULP = 2.0**-23  # relative, of fp32

with_mpirun = pytest.mark.skipif(not shutil.which("mpirun"), reason="there is no mpirun")

spec = importlib.util.spec_from_file_location("train_torch", EXAMPLE)
train_torch = importlib.util.module_from_spec(spec)
spec.loader.exec_module(train_torch)


@pytest.fixture(name="text", scope="module")
def make_text(tmp_path_factory) -> pathlib.Path:
    words = random.Random(7)
    path = tmp_path_factory.mktemp("text") / "text"
    path.write_text(" ".join(words.choice(("in", "the", "beginning", "was", "a", "word")) for _ in range(3000)))
    return path


def as_torchrun(program: pathlib.Path, *arguments: object) -> str:
    """Two ranks, without MPI, with the environment that torchrun gives them; what rank 0 prints."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [subprocess.Popen([sys.executable, str(program), *map(str, arguments)], text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              env=ENVIRONMENT | {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank),
                                                 "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
             for rank in range(2)]
    try:
        printed = [rank.communicate(timeout=100)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert not any(rank.returncode for rank in ranks), "\n".join(printed)
    return printed[0]


def as_mpirun(*arguments: object) -> subprocess.CompletedProcess:
    command = ["mpirun", "-n", "2", "--oversubscribe", "--bind-to", "none", sys.executable, str(EXAMPLE),
               *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=100, check=False)


def rows_of(log: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.fixture(name="whole", scope="module")
def make_whole(text, tmp_path_factory) -> pathlib.Path:
    """A folder with the log and the checkpoints, of steps 10 and 20, of a run of 20 steps by two ranks."""
    folder = tmp_path_factory.mktemp("whole")
    ended = as_mpirun("--data", text, *MODEL, "--steps", "20", "--log", folder / "log", "--checkpoint",
                      folder / "root", "--save-every", "10")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder


def from_step_10(whole: pathlib.Path, folder: pathlib.Path) -> list[object]:
    """The options of a run in `folder` that goes on from there."""
    shutil.copytree(whole / "root" / "step-000000000010", folder / "root" / "step-000000000010")
    shutil.copy(whole / "log", folder / "log")
    return [*MODEL, "--steps", "20", "--log", folder / "log", "--checkpoint", folder / "root", "--resume"]


@with_mpirun
def test_two_ranks_agree_with_ddp_and_adamw_for_20_steps(text, whole, tmp_path):
    """Sums of two are the same in any order, so gradients begin as the same bits; the norm and the update are rounded
    in another order. Losses stay within 8 units in the last place, norms, which are sums of squares, within 80."""
    as_torchrun(EXAMPLE, "--data", text, *MODEL, "--steps", "20", "--optimizer", "ddp", "--log", tmp_path / "log")
    ours, theirs = rows_of(whole / "log"), rows_of(tmp_path / "log")
    assert [row["step"] for row in ours] == [row["step"] for row in theirs] == list(range(21))
    assert ours[0] == theirs[0] and ours[1]["loss"] == theirs[1]["loss"]
    for mine, other in zip(ours[1:], theirs[1:]):
        assert mine["lr"] == other["lr"]
        assert mine["loss"] == pytest.approx(other["loss"], rel=8 * ULP)
        assert mine["norm"] == pytest.approx(other["norm"], rel=80 * ULP)
    assert ours[20]["held_out"] == pytest.approx(theirs[20]["held_out"], rel=8 * ULP)
    assert ours[20]["held_out"] < ours[10]["held_out"] < ours[0]["held_out"]


def test_gradients_that_two_ranks_reduce_are_those_of_ddp_bit_for_bit(text):
    assert "gradients are equal" in as_torchrun(ROOT / "tests" / "train_torch_gradients.py", text)


def test_gradients_that_the_hooks_hand_over_are_those_of_plain_autograd_bit_for_bit(text):
    torch.set_num_threads(1)
    windows = train_torch.Text(train_torch.parse(["--data", str(text), *MODEL])).batch(1)
    grads = []
    for sharded in (False, True):
        torch.manual_seed(1)
        model = train_torch.GPT(2, 32, 2, 16)
        if sharded:
            optimizer = zero1.torch.DistributedOptimizer(model.parameters(), module=model, threads=1)
        model(windows).backward()
        grads.append([param.grad.clone() for param in model.parameters()])
    assert optimizer.core.grads[0].ctypes.data == next(model.parameters()).grad.data_ptr()
    assert len(grads[0]) == 30
    assert all(map(torch.equal, *grads))
    optimizer.close()


@with_mpirun
def test_a_resumed_run_has_the_same_losses_and_checkpoint_bit_for_bit(text, whole, tmp_path):
    """Under torchrun, too, what mpirun began."""
    printed = as_torchrun(EXAMPLE, "--data", text, *from_step_10(whole, tmp_path))
    assert f"goes on from step 10 of {tmp_path / 'root'}" in printed
    assert rows_of(tmp_path / "log") == rows_of(whole / "log")
    names = sorted(os.listdir(whole / "root" / "step-000000000020"))
    same, _, _ = filecmp.cmpfiles(whole / "root" / "step-000000000020", tmp_path / "root" / "step-000000000020", names,
                                  shallow=False)
    assert len(names) > 2 and same == names


@with_mpirun
def test_another_number_of_ranks_goes_on_from_the_same_state(text, whole, tmp_path):
    """One rank has the windows of both: the same gradients, summed in another order."""
    train_torch.main(list(map(str, ["--data", text, *from_step_10(whole, tmp_path)])))
    before, after = rows_of(whole / "log"), rows_of(tmp_path / "log")
    assert after[:11] == before[:11] and len(after) == 21
    assert after[11]["norm"] == pytest.approx(before[11]["norm"], rel=1e-6)
    assert after[20]["held_out"] == pytest.approx(before[20]["held_out"], rel=8 * ULP)


def test_no_checkpoint_is_a_run_from_the_start_that_says_so(text, tmp_path, capsys):
    train_torch.main(["--data", str(text), *MODEL, "--steps", "2", "--checkpoint", str(tmp_path / "root"), "--resume"])
    printed = capsys.readouterr().out
    assert f"no checkpoint in {tmp_path / 'root'}: from the start" in printed
    assert "\r" not in printed and "step     2  loss" in printed  # no terminal, no bar
    assert os.listdir(tmp_path / "root" / "latest")


@pytest.mark.parametrize("options, said", [
    ([], "--data"),
    (["--data", "x", "--steps", "-1"], "--steps: -1 is not a number from 0"),
    (["--data", "x", "--lr", "nan"], "--lr: nan is not a number from 0"),
    (["--data", "x", "--batch", "two"], "--batch: invalid whole number value: 'two'"),
    (["--data", "x", "--dim", "30"], "--heads: 4 heads do not divide --dim 30"),
    (["--data", "x", "--resume"], "--resume: --checkpoint ROOT is missing"),
    (["--data", "x", "--optimizer", "ddp", "--checkpoint", "y"], "--checkpoint: of --optimizer zero1 alone"),
    (["--data", "x", "--fused"], "--fused: of --optimizer ddp alone"),
    (["--data", "x", "--nothing"], "--nothing"),
])
def test_bad_options_are_named(options, said, capsys):
    with pytest.raises(SystemExit) as ended:
        train_torch.parse(options)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_batch_that_ranks_cannot_share_and_ddp_under_mpirun_are_refused_once(monkeypatch, capsys):
    for rank in ("1", "0"):
        monkeypatch.setenv("OMPI_COMM_WORLD_RANK", rank)
        monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "3")
        for options in (["--batch", "16"], ["--batch", "15", "--optimizer", "ddp"]):
            with pytest.raises(SystemExit):
                train_torch.parse(["--data", "x", *options])
    said = capsys.readouterr().err.splitlines()
    assert said == ["train_torch: --batch: 16 windows cannot be shared out equally over 3 ranks",
                    "train_torch: --optimizer ddp: torch.distributed wants torchrun, not mpirun"]


@pytest.mark.parametrize("text_bytes", [None, 0, 300])
def test_a_text_that_is_missing_or_short_is_named(text_bytes, tmp_path):
    path = tmp_path / "text"
    if text_bytes is not None:
        path.write_bytes(b"x" * text_bytes)
    with pytest.raises(SystemExit, match=f"train_torch: .*{path}"):
        train_torch.main(["--data", str(path), *MODEL])


@with_mpirun
def test_a_checkpoint_of_another_model_is_refused(text, whole):
    with pytest.raises(SystemExit, match="train_torch: .*32"):
        train_torch.main(["--data", str(text), *MODEL, "--dim", "64", "--checkpoint", str(whole / "root"), "--resume"])
