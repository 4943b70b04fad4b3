"""examples/train_lm: a run that was interrupted, however, goes on as if it had not been: the same losses
digit by digit and the same last checkpoint byte by byte. And under scripts/elastic_run.

ZERO1_ELASTIC_KILLS says how many kills the run under elastic_run survives: 2; 5 is the long form."""

import csv
import fcntl
import filecmp
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ.get("ZERO1_BUILD", ROOT / "build"))
PROGRAM = BUILD / "examples" / "train_lm"
KILLS = int(os.environ.get("ZERO1_ELASTIC_KILLS", "2"))
ENVIRONMENT = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                            "OMPI_MCA_mpi_yield_when_idle": "1", "ZERO1_BUILD": str(BUILD)}
STOPPED = 143

pytestmark = pytest.mark.skipif(not PROGRAM.exists() or not shutil.which("mpirun"),
                                reason="train_lm is not built, or there is no mpirun")


class Run:
    """A folder with a text, a root of checkpoints and a log, for runs one after the other."""

    def __init__(self, folder: pathlib.Path):
        folder.mkdir(exist_ok=True)
        self.folder, self.root, self.log = folder, folder / "root", folder / "log.csv"

    def program(self, *options: str, steps: int = 40) -> list[str]:
        return [str(PROGRAM), "--data", str(text_of(self.folder)), "--checkpoint", str(self.root),
                "--log", str(self.log), "--steps", str(steps), "--layers", "1", "--dim", "32", "--heads", "2",
                "--context", "32", "--batch", "2", "--warmup", "5", "--val-every", "8", "--val-batches", "2",
                "--sample-bytes", "0", "--threads", "1", "--log-every", "1", *options]

    def start(self, *options: str, ranks: int = 2, steps: int = 40) -> subprocess.Popen:
        command = ["mpirun", "-n", str(ranks), "--oversubscribe", *self.program(*options, steps=steps)]
        return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True)

    def run(self, *options: str, ranks: int = 2, steps: int = 40) -> subprocess.CompletedProcess:
        started = self.start(*options, ranks=ranks, steps=steps)
        out, said = started.communicate(timeout=100)
        return subprocess.CompletedProcess(started.args, started.returncode, out, said)

    def done(self, *options: str, ranks: int = 2, steps: int = 40) -> str:
        ended = self.run(*options, ranks=ranks, steps=steps)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def rows(self) -> list[tuple[str, ...]]:
        """What the log says of each step, but for times."""
        with open(self.log, encoding="utf-8", newline="") as log:
            return [(row["step"], row["loss"], row["val_loss"], row["grad_norm"], row["lr"])
                    for row in csv.DictReader(log)]

    def seconds(self) -> list[float]:
        with open(self.log, encoding="utf-8", newline="") as log:
            return [float(row["seconds"]) for row in csv.DictReader(log)]

    def steps(self) -> list[int]:
        return sorted(int(path.name[5:]) for path in self.root.glob("step-*"))

    def latest(self) -> int:
        return int(os.readlink(self.root / "latest")[5:])

    def checkpoint(self, step: int) -> pathlib.Path:
        return self.root / f"step-{step:012}"


def text_of(folder: pathlib.Path) -> pathlib.Path:
    """100 kB of words, the same in every folder."""
    path = folder / "text"
    if not path.exists():
        words = random.Random(7)
        lines = [" ".join(words.choice(("in", "the", "beginning", "was", "a", "word")) for _ in range(12))
                 for _ in range(1800)]
        path.write_text("\n".join(lines), encoding="ascii")
    return path


def assert_same_checkpoint(one: pathlib.Path, other: pathlib.Path) -> None:
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    assert len(names) > 1
    for name in names:
        assert filecmp.cmp(one / name, other / name, shallow=False), f"{name} differs"


def losses(printed: str) -> list[str]:
    return re.findall(r"^step +\d+  loss \S+|held-out loss over all.*byte", printed, re.M)


def ranks_of(started: subprocess.Popen) -> list[int]:
    """The processes below `started` that are train_lm."""
    parents, found = {started.pid}, []
    table = []
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
            table.append((int(entry.name), int(rest.split()[1]), name))
        except (OSError, IndexError, ValueError):
            continue
    for _ in range(4):  # elastic_run, mpirun, and what it may put between
        for pid, parent, name in table:
            if parent in parents:
                parents.add(pid)
                if name == "train_lm" and pid not in found:
                    found.append(pid)
    return found


def wait_until(holds, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


@pytest.fixture(name="unbroken", scope="module", params=[1, 2], ids=["1-rank", "2-ranks"])
def make_unbroken(request, tmp_path_factory) -> tuple[int, Run, str]:
    run = Run(tmp_path_factory.mktemp("unbroken"))
    printed = run.done("--save-every", "20", ranks=request.param)
    assert run.steps() == [20, 40]
    return request.param, run, printed


def from_step_20(unbroken: Run, folder: pathlib.Path, with_log: bool = True) -> Run:
    run = Run(folder / "resumed")
    shutil.copytree(unbroken.checkpoint(20), run.checkpoint(20))
    if with_log:
        shutil.copy(unbroken.log, run.log)
    return run


@pytest.mark.parametrize("mode", ["pinned", "snapshot", "off"])
def test_20_steps_and_20_resumed_are_40(unbroken, tmp_path, mode):
    ranks, whole, printed = unbroken
    run = from_step_20(whole, tmp_path)
    again = run.done("--resume", "--save-every", "20", "--save-async", mode, ranks=ranks)
    assert re.search(r"^resumes  from \S*step-000000000020: step 20$", again, re.M)
    assert losses(again) == [line for line in losses(printed) if not re.match(r"step +(1?\d|20) ", line)]
    assert len(losses(again)) == 21
    assert run.rows() == whole.rows()
    assert_same_checkpoint(run.checkpoint(40), whole.checkpoint(40))


@pytest.mark.parametrize("options", [
    ("--param-dtype", "bf16", "--grad-dtype", "bf16", "--accumulate", "2"),
    ("--grad-wire", "int8", "--param-wire", "bf16", "--ranks-per-node", "1"),
    ("--private-params", "--bucket-numel", "4096"),
], ids=["bf16", "8-bit gradients", "a copy each"])
def test_whatever_the_state_is_made_of_it_goes_on(tmp_path, options):
    whole = Run(tmp_path / "whole")
    whole.done("--save-every", "20", *options)
    run = from_step_20(whole, tmp_path)
    run.done("--resume", *options)
    assert run.rows() == whole.rows()
    assert_same_checkpoint(run.checkpoint(40), whole.checkpoint(40))


def test_a_log_that_is_gone_begins_with_the_resumed_steps(unbroken, tmp_path):
    ranks, whole, _ = unbroken
    run = from_step_20(whole, tmp_path, with_log=False)
    run.done("--resume", ranks=ranks)
    assert run.rows() == whole.rows()[21:]


def test_a_finished_run_that_is_resumed_trains_no_step(unbroken, tmp_path):
    ranks, whole, printed = unbroken
    run = Run(tmp_path / "again")
    shutil.copytree(whole.root, run.root, symlinks=True)
    shutil.copy(whole.log, run.log)
    assert losses(run.done("--resume", ranks=ranks)) == losses(printed)[-1:]
    assert run.rows() == whole.rows()
    assert run.steps() == [20, 40]


def test_no_checkpoint_is_a_run_from_the_start_that_says_so(unbroken, tmp_path):
    ranks, whole, printed = unbroken
    run = Run(tmp_path / "fresh")
    again = run.done("--resume", ranks=ranks)
    assert f"no checkpoint in {run.root}; from the start" in again
    assert losses(again) == losses(printed)
    assert run.rows() == whole.rows()
    assert_same_checkpoint(run.checkpoint(40), whole.checkpoint(40))


def test_a_rank_killed_at_a_random_moment_is_as_if_it_had_not_been(tmp_path):
    whole, run = Run(tmp_path / "whole"), Run(tmp_path / "killed")
    whole.done("--save-every", "20", steps=1500)
    started = run.start("--save-every", "20", steps=1500)
    wait_until(lambda: len(run.steps()) > 0)
    time.sleep(random.uniform(0, 0.3))
    os.kill(random.choice(ranks_of(started)), signal.SIGKILL)
    started.communicate(timeout=60)
    assert started.returncode != 0
    assert max(run.steps()) < 1500
    run.done("--resume", "--save-every", "20", steps=1500)
    assert run.rows() == whole.rows()
    assert_same_checkpoint(run.checkpoint(1500), whole.checkpoint(1500))


@pytest.mark.parametrize("how", ["SIGUSR1 to mpirun", "SIGTERM to one rank", "SIGINT without mpirun"])
def test_a_signal_ends_the_run_with_a_checkpoint(tmp_path, how):
    run, ranks = Run(tmp_path / "stopped"), 1 if "without" in how else 2
    if ranks == 1:
        started = subprocess.Popen(run.program("--save-every", "0", steps=100000), env=ENVIRONMENT,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    else:
        started = run.start("--save-every", "0", steps=100000)
    for line in started.stdout:
        if line.startswith("step    10"):
            break
    name = how.split()[0]
    os.kill(ranks_of(started)[-1] if "one rank" in how else started.pid, getattr(signal, name))
    printed, said = started.communicate(timeout=60)
    assert started.returncode == STOPPED, printed + said
    stopped = int(re.search(r"^stopped after step (\d+), as asked$", printed, re.M)[1])
    assert run.steps() == [stopped]
    assert run.rows()[-1][0] == str(stopped)


def test_a_run_that_was_stopped_goes_on(tmp_path):
    whole, run = Run(tmp_path / "whole"), Run(tmp_path / "stopped")
    started = run.start("--save-every", "0", steps=400)
    for line in started.stdout:
        if line.startswith("step    10"):
            break
    started.send_signal(signal.SIGUSR1)
    printed, said = started.communicate(timeout=60)
    assert started.returncode == STOPPED, printed + said
    run.done("--resume", "--save-every", "0", steps=400)
    whole.done("--save-every", "0", steps=400)
    assert run.rows() == whole.rows()
    assert_same_checkpoint(run.checkpoint(400), whole.checkpoint(400))


@pytest.mark.parametrize("saved, ranks, passes", [(2, 1, 2), (1, 2, 1), (2, 3, 1)])
def test_other_ranks_go_on_from_the_same_state(tmp_path, saved, ranks, passes):
    whole = Run(tmp_path / "whole")
    whole.done("--save-every", "20", "--accumulate", "2" if saved == 1 else "1", ranks=saved)
    run = from_step_20(whole, tmp_path)
    printed = run.done("--resume", "--accumulate", str(passes), ranks=ranks)
    assert "resumes  from" in printed
    assert [row[0] for row in run.rows()] == [str(step) for step in range(41)]
    assert run.rows()[:21] == whole.rows()[:21]
    if ranks * passes == 2:  # the same windows, so the same loss of the first step
        assert float(run.rows()[21][1]) == pytest.approx(float(whole.rows()[21][1]), rel=1e-6)
    assert float(run.rows()[40][1]) < float(run.rows()[1][1])


def test_changed_options_hold_and_are_told(unbroken, tmp_path):
    ranks, whole, _ = unbroken
    run = from_step_20(whole, tmp_path)
    printed = run.done("--resume", "--lr", "0.001", "--seed", "2", ranks=ranks)
    assert "note     --lr is 0.001 now; it was 0.002 when the checkpoint was saved" in printed
    assert "note     --seed is 2 now; it was 1" in printed
    assert "--beta1" not in printed
    assert float(run.rows()[21][4]) < float(whole.rows()[21][4])


def test_another_models_checkpoint_is_refused(unbroken, tmp_path):
    ranks, whole, _ = unbroken
    run = from_step_20(whole, tmp_path)
    ended = run.run("--resume", "--layers", "2", ranks=ranks)
    assert ended.returncode == 1
    assert "train_lm: --resume: " in ended.stderr
    ended = run.run("--resume", "--dim", "64", ranks=ranks)
    assert ended.returncode == 1
    assert re.search(r"train_lm: --resume: .*\[256, 32\].*\[256, 64\]|\[256, 64\].*\[256, 32\]", ended.stderr)
    assert run.steps() == [20]


def test_a_damaged_checkpoint_is_exit_code_3(unbroken, tmp_path):
    ranks, whole, _ = unbroken
    run = from_step_20(whole, tmp_path)
    damaged = sorted(run.checkpoint(20).glob("*.safetensors"))[-1]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    ended = run.run("--resume", ranks=ranks)
    assert ended.returncode == 3
    assert damaged.name in ended.stderr


def test_resume_takes_a_root(tmp_path):
    ended = subprocess.run([str(PROGRAM), "--data", str(text_of(tmp_path)), "--resume"], env=ENVIRONMENT,
                           capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "--resume: --checkpoint ROOT is missing" in ended.stderr


def test_a_root_that_is_a_file_ends_the_run_at_its_first_save(tmp_path):
    run = Run(tmp_path / "file")
    run.root.touch()
    ended = run.run("--save-every", "5")
    assert ended.returncode == 1
    assert str(run.root) in ended.stderr


def test_a_root_that_another_job_writes_to_ends_the_run_which_names_that_job(tmp_path):
    run = Run(tmp_path / "locked")
    run.root.mkdir()
    with open(run.root / ".lock", "w", encoding="utf-8") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        lock.write('{"host":"node7","pid":42,"since":"2026-01-02 03:04:05 UTC"}\n')
        lock.flush()
        ended = run.run("--save-every", "5")
    assert ended.returncode == 1
    assert "node7" in ended.stderr and "42" in ended.stderr
    assert run.steps() == []


def test_two_jobs_in_one_root_leave_a_checkpoint_that_is_whole(tmp_path):
    one, other = Run(tmp_path / "jobs"), Run(tmp_path / "jobs")
    other.log = tmp_path / "other.csv"
    often = ("--save-every", "1", "--keep-last", "2")
    started = [run.start(*often, steps=80) for run in (one, other)]
    ends = [(*job.communicate(timeout=100), job.returncode) for job in started]
    for _, said, code in ends:
        assert code == 0 or (code == 1 and "lock" in said.lower()), said
    again = Run(tmp_path / "again")
    shutil.copytree(one.root / "latest", again.checkpoint(one.latest()))
    assert "resumes  from" in again.done("--resume", steps=one.latest() + 5)


def test_older_checkpoints_go(tmp_path):
    run = Run(tmp_path / "kept")
    run.done("--save-every", "5", "--keep-last", "2")
    assert run.steps() == [35, 40]


def test_a_limit_of_time_counts_what_was_before(tmp_path):
    run = Run(tmp_path / "timed")
    limit = ("--time-limit", "3", "--save-every", "0")
    started = run.start(*limit, steps=1000000)
    wait_until(lambda: len(ranks_of(started)) == 2)
    time.sleep(2)
    started.send_signal(signal.SIGUSR1)
    printed, said = started.communicate(timeout=60)
    assert started.returncode == STOPPED, printed + said
    before = len(run.rows())
    run.done("--resume", *limit, steps=1000000)
    seconds = run.seconds()
    assert seconds == sorted(seconds)
    assert len(seconds) > before
    assert 3 <= seconds[-1] < 3.5


def supervise(log: pathlib.Path, program: list[str], *options: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "scripts" / "elastic_run"), "--np", "2", "--backoff", "0.1", "--log",
               str(log), "--oversubscribe", *options, "--", *program]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                            text=True)


@pytest.mark.parametrize("verify", [(), ("--verify", "")], ids=["found by the command", "found by the program"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_taken(tmp_path, verify):
    whole, run, log = Run(tmp_path / "whole"), Run(tmp_path / "damaged"), tmp_path / "events"
    whole.done("--save-every", "20")
    shutil.copytree(whole.root, run.root, symlinks=True)
    damaged = sorted(run.checkpoint(40).glob("*.safetensors"))[-1]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    started = supervise(log, run.program("--save-every", "20"), *verify)
    _, said = started.communicate(timeout=60)
    assert started.returncode == 0, said
    assert "set-aside" in log.read_text()
    assert (run.root / "bad-step-000000000040" / damaged.name).exists()
    assert_same_checkpoint(run.checkpoint(40), whole.checkpoint(40))


def test_the_final_state_of_a_run_that_survived_kills_is_that_of_an_unbroken_one(tmp_path):
    whole, run, log = Run(tmp_path / "whole"), Run(tmp_path / "killed"), tmp_path / "events"
    steps, often = 1000 * (KILLS + 1), ("--save-every", "10", "--keep-last", "3", "--log-every", "100")
    whole.done(*often, steps=steps)
    started = supervise(log, run.program(*often, steps=steps))
    moments = random.Random()
    for kill in range(KILLS):
        before = max(run.steps(), default=0)
        wait_until(lambda least=before: max(run.steps(), default=0) > least)
        time.sleep(moments.uniform(0, 0.3))
        ranks = ranks_of(started)
        assert ranks, f"it ended before kill {kill}"
        os.kill(moments.choice(ranks), signal.SIGKILL)
        wait_until(lambda gone=ranks: not set(ranks_of(started)) & set(gone))
    _, said = started.communicate(timeout=200)
    assert started.returncode == 0, said
    assert log.read_text().count('"event": "failed"') == KILLS
    assert_same_checkpoint(run.checkpoint(steps), whole.checkpoint(steps))
    assert run.rows() == whole.rows()
