"""Stands in for mpirun, a program and `zero1 ckpt verify`, for tests/test_elastic_run.py.

    python elastic_fakes.py mpirun OPTIONS... -n N PROGRAM...   becomes PROGRAM; notes its own arguments
    python elastic_fakes.py program FOLDER ...                  does the next line of FOLDER/plan
    python elastic_fakes.py verify CHECKPOINT                   whether CHECKPOINT holds no `damaged`
    python elastic_fakes.py probe FOLDER HOST true              whether FOLDER/HOST is there

A line of the plan: `save STEP`, `exit CODE`, `die SIGNAL`, `wait` (until a signal: saves STEP of the line's
`wait STEP`, and exits with 143), several of them divided by commas."""

import os
import pathlib
import signal
import sys
import time


def save(root: pathlib.Path, step: int) -> None:
    name = f"step-{step:012}"
    (root / name).mkdir(parents=True)
    (root / name / "manifest.json").write_text("{}", encoding="utf-8")
    link = root / "new"
    link.symlink_to(name)
    link.rename(root / "latest")


def wait_for_signal(root: pathlib.Path, step: int) -> None:
    got = []
    signal.signal(signal.SIGUSR1, lambda number, frame: got.append(number))
    (root.parent / "waiting").touch()
    while not got:
        time.sleep(0.01)
    save(root, step)
    sys.exit(143)


def program(folder: pathlib.Path) -> None:
    root, plan = folder / "root", folder / "plan"
    line, _, rest = plan.read_text(encoding="utf-8").partition("\n")
    plan.write_text(rest, encoding="utf-8")
    for action in line.split(","):
        word, *values = action.split()
        if word == "save":
            save(root, int(values[0]))
        elif word == "die":
            os.kill(os.getpid(), int(values[0]))
        elif word == "wait":
            wait_for_signal(root, int(values[0]))
        elif word == "exit":
            sys.exit(int(values[0]))


def mpirun(arguments: list[str]) -> None:
    with open(os.environ["FAKE_STARTS"], "a", encoding="utf-8") as starts:
        starts.write(" ".join(arguments) + "\n")
    command = arguments[arguments.index("-n") + 2:]
    os.execvp(command[0], command)


def main() -> None:
    role, *arguments = sys.argv[1:]
    if role == "mpirun":
        mpirun(arguments)
    elif role == "program":
        program(pathlib.Path(arguments[0]))
    elif role == "verify":
        if (pathlib.Path(arguments[0]) / "damaged").exists():
            sys.exit(f"{arguments[0]}: rank-00000-of-00001-00000.safetensors is damaged")
    elif role == "probe":
        sys.exit(not (pathlib.Path(arguments[0]) / arguments[1]).exists())


main()
