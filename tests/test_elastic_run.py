"""scripts/elastic_run: what it starts, when it starts it again, and when it does not, with fakes of mpirun
and of the program; test_train_lm.py has it run the real ones."""

import json
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "elastic_run"
FAKES = [sys.executable, str(ROOT / "tests" / "elastic_fakes.py")]


class Case:
    """A folder with a plan for the program, a root, and a log."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.root, self.log = folder, folder / "root", folder / "log"
        self.root.mkdir()
        self.starts = folder / "starts"

    def command(self, *options: str, plan: str) -> list[str]:
        (self.folder / "plan").write_text(plan, encoding="utf-8")
        return [sys.executable, str(SCRIPT), "--np", "4", "--log", str(self.log), "--backoff", "0.01",
                "--verify", shlex.join([*FAKES, "verify"]), "--mpirun", shlex.join([*FAKES, "mpirun"]),
                *options, "--", *FAKES, "program", str(self.folder), "--checkpoint", str(self.root)]

    def start(self, *options: str, plan: str) -> subprocess.Popen:
        return subprocess.Popen(self.command(*options, plan=plan), env={"FAKE_STARTS": str(self.starts)},
                                stderr=subprocess.PIPE, text=True)

    def run(self, *options: str, plan: str) -> int:
        started = self.start(*options, plan=plan)
        started.communicate(timeout=60)
        return started.returncode

    def save(self, step: int, *files: str) -> pathlib.Path:
        folder = self.root / f"step-{step:012}"
        folder.mkdir()
        for name in ("manifest.json", *files):
            (folder / name).touch()
        return folder

    def ranks(self) -> list[str]:
        """What -n said, start by start."""
        lines = self.starts.read_text(encoding="utf-8").splitlines()
        return [line.split()[line.split().index("-n") + 1] for line in lines]

    def events(self, *fields: str) -> list:
        lines = self.log.read_text(encoding="utf-8").splitlines()
        entries = [json.loads(line) for line in lines]
        if len(fields) == 1:
            return [entry[fields[0]] for entry in entries]
        return [tuple(entry[field] for field in fields) for entry in entries]


@pytest.fixture(name="case")
def make_case(tmp_path: pathlib.Path) -> Case:
    return Case(tmp_path)


def test_a_program_that_succeeds_is_started_once_and_told_to_resume(case):
    assert case.run(plan="save 10,exit 0") == 0
    assert case.events("event", "step", "status") == [("start", None, None), ("done", 10, 0)]
    assert case.starts.read_text().rstrip().endswith(f"--checkpoint {case.root} --resume")


def test_a_rank_that_dies_is_started_again_from_what_it_had_saved(case):
    assert case.run(plan="save 10,die 9\nsave 20,exit 0") == 0
    assert case.events("event", "step", "status") == [
        ("start", None, None), ("failed", 10, 137), ("wait", 10, None), ("start", 10, None), ("done", 20, 0)]
    assert "SIGKILL" in case.events("reason")[1]


def test_it_gives_up_when_retries_in_a_row_bring_no_newer_checkpoint(case):
    assert case.run("--retries", "2", plan="exit 5\n" * 9) == 1
    assert case.events("event").count("start") == 3
    assert case.events("event", "status")[-1] == ("gave-up", 5)


def test_a_newer_checkpoint_makes_retries_and_waits_begin_anew(case):
    plan = "exit 1\nexit 1\nsave 10,exit 1\nexit 1\nexit 1\nsave 20,exit 0\n"
    assert case.run("--retries", "3", plan=plan) == 0
    waits = [reason.split()[0] for event, reason in case.events("event", "reason") if event == "wait"]
    assert waits == ["0.01", "0.02", "0.01", "0.02", "0.04"]


def test_waits_end_at_the_limit(case):
    assert case.run("--retries", "4", "--backoff-limit", "0.03", plan="exit 1\n" * 5) == 1
    waits = [reason.split()[0] for event, reason in case.events("event", "reason") if event == "wait"]
    assert waits == ["0.01", "0.02", "0.03", "0.03"]


def test_a_checkpoint_that_does_not_verify_is_set_aside_and_kept(case):
    case.save(10)
    bad = case.save(20, "damaged")
    (case.root / "latest").symlink_to(bad.name)
    assert case.run(plan="save 30,exit 0") == 0
    assert case.events("event", "step") == [("set-aside", 10), ("start", 10), ("done", 30)]
    assert (case.root / "bad-step-000000000020" / "damaged").exists()
    assert not bad.exists()


def test_the_one_before_a_damaged_one_is_not_of_a_run_that_was_given_up(case):
    case.save(10)
    bad = case.save(20, "damaged")
    case.save(90)  # of a run that went back to step 10
    (case.root / "latest").unlink(missing_ok=True)
    (case.root / "latest").symlink_to(bad.name)
    assert case.run(plan="exit 0") == 0
    assert case.events("event", "step") == [("set-aside", 10), ("start", 10), ("done", 10)]


def test_one_that_is_set_aside_again_gets_another_name(case):
    case.save(20, "damaged")
    (case.root / "bad-step-000000000020").mkdir()
    assert case.run(plan="exit 0") == 0
    assert (case.root / "bad-step-000000000020-2" / "damaged").exists()


def test_one_that_the_program_cannot_load_is_set_aside(case):
    case.save(10)
    case.save(20)
    assert case.run(plan="exit 3\nsave 30,exit 0") == 0
    assert case.events("event", "step") == [
        ("start", 20), ("failed", 20), ("set-aside", 10), ("wait", 10), ("start", 10), ("done", 30)]


def test_exit_code_3_sets_nothing_aside_that_was_saved_since_the_start(case):
    case.save(10)
    assert case.run(plan="save 20,exit 3\nexit 0") == 0
    assert "set-aside" not in case.events("event")


def test_a_verifier_that_cannot_verify_sets_nothing_aside(case):
    case.save(10)
    assert case.run("--verify", "/does/not/exist", plan="exit 0") == 0
    assert case.run("--verify", "sh -c 'exit 2'", plan="exit 0") == 0
    assert (case.root / "step-000000000010").exists()
    assert case.events("event") == ["unverified", "start", "done"] * 2
    assert "No such file" in case.events("reason")[0]


def test_what_is_no_checkpoint_is_not_taken_for_one(case):
    case.save(10)
    (case.root / "step-000000000020").mkdir()  # without a manifest
    (case.root / ".save-30").mkdir()
    (case.root / "latest").symlink_to("step-000000000020")
    assert case.run(plan="exit 0") == 0
    assert case.events("step") == [10, 10]


def test_each_death_takes_a_slot_until_too_few_are_left(case):
    assert case.run("--lose-slot-on-death", "--min-np", "3", plan="die 9\ndie 9\n") == 1
    assert case.ranks() == ["4", "3"]
    assert case.events("event")[-1] == "gave-up"


def test_ranks_go_to_the_hosts_that_answer(case):
    hostfile = case.folder / "hosts"
    hostfile.write_text("# a comment\na slots=2\nb slots = 1  # another\nc\n", encoding="utf-8")
    answering = case.folder / "answering"
    answering.mkdir()
    for host in ("a", "c"):
        (answering / host).touch()
    options = ("--hostfile", str(hostfile), "--probe", shlex.join([*FAKES, "probe", str(answering)]))
    assert case.run(*options, plan="exit 0") == 0
    assert case.ranks() == ["3"]
    assert "--hostfile" in case.starts.read_text()
    assert case.run(*options, "--np", "2", plan="exit 0") == 0
    assert case.ranks()[1:] == ["2"]


def test_too_few_hosts_are_waited_for(case):
    hostfile = case.folder / "hosts"
    hostfile.write_text("a slots=4\n", encoding="utf-8")
    assert case.run("--hostfile", str(hostfile), "--probe", "false", "--retries", "2", plan="exit 0") == 1
    assert not case.starts.exists()
    assert case.events("event") == ["failed", "wait", "failed", "wait", "failed", "gave-up"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_ranks_save_and_nothing_is_started_again(case, number):
    started = case.start(plan="wait 10\nexit 0")
    wait_until((case.folder / "waiting").exists)
    started.send_signal(number)
    started.communicate(timeout=30)
    assert started.returncode == 128 + number
    assert case.events("event", "step", "status") == [
        ("start", None, None), ("stop", None, None), ("stop", 10, 143)]
    assert "SIGUSR1" in case.events("reason")[1]


def test_a_signal_ends_a_wait(case):
    started = case.start("--backoff", "100", plan="exit 1\nexit 0")
    wait_until(lambda: case.log.exists() and "wait" in case.events("event"))
    started.send_signal(signal.SIGTERM)
    started.communicate(timeout=30)
    assert started.returncode == 143
    assert case.events("event").count("start") == 1


def test_ranks_that_do_not_end_in_time_are_ended(case):
    command = case.command("--grace", "0.2", plan="")
    command = [*command[:command.index("--") + 1], "sh", "-c",
               f"trap '' USR1; touch {case.folder}/waiting; sleep 60 & wait", "--checkpoint", str(case.root)]
    started = subprocess.Popen(command, env={"FAKE_STARTS": str(case.starts), "PATH": "/usr/bin:/bin"})
    wait_until((case.folder / "waiting").exists)
    started.send_signal(signal.SIGTERM)
    assert started.wait(timeout=30) == 143
    assert case.events("status")[-1] == 143  # ended by SIGTERM


def test_options_of_mpirun_are_handed_on_in_order(case):
    assert case.run("--mca", "btl", "self,vader", "-host", "a,b", "-x", "A=1", "--oversubscribe",
                    plan="exit 0") == 0
    assert case.starts.read_text().startswith("--mca btl self,vader -host a,b -x A=1 --oversubscribe -n 4 ")


def test_an_mpirun_that_is_not_there_is_a_failure_that_says_so(case):
    started = case.start("--mpirun", "/does/not/exist", "--retries", "0", plan="exit 0")
    _, said = started.communicate(timeout=30)
    assert started.returncode == 1
    assert "/does/not/exist: No such file" in said


@pytest.mark.parametrize("arguments, said", [
    ([], "a program is missing"),
    (["--", "program"], "--checkpoint"),
    (["--np", "0", "--", "program", "--checkpoint", "x"], "--np"),
    (["--np", "2", "--min-np", "3", "--", "program", "--checkpoint=x"], "--min-np"),
    (["--backoff", "soon", "--", "program", "--checkpoint=x"], "--backoff"),
    (["-np", "3", "--", "program", "--checkpoint=x"], "-np"),
    (["--hostfile", "/does/not/exist", "--", "program", "--checkpoint=x"], "/does/not/exist"),
])
def test_bad_options_are_named(arguments, said):
    result = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True,
                            timeout=60, check=False)
    assert result.returncode == 2
    assert said in result.stderr


def wait_until(holds) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)
