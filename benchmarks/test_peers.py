"""Runs a program of peers/ or a part of compare.py with few parameters, and checks what it writes.

  test_peers.py absent   without PyTorch every peer says that it is absent
  test_peers.py check    values.py finds a sum in place of a mean and a step too few or too many; a
                         peer that forgets an update ends with 1
  test_peers.py PROGRAM  runs it in fp32, and in bf16 with clipping
  test_peers.py torch_training LIBRARY  trains a small model with each of its sides; a side that forgets an
                         update, or adds gradients up where it is to average them, ends with 1
  test_peers.py compare BUILD  compare.py, with what is to be had

All but the first take PyTorch: of .venv/ in the project's folder, or else of this Python. Without
it they exit with 77."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
PEERS = HERE / "peers"
PROGRAMS = "ddp_adamw zero_redundancy fsdp2 deepspeed_zero1 cpu_adam torch_fused".split()
TRAINING = "torch_training"
KERNELS = ["cpu_adam", "torch_fused"]
SKIP = 77
SMALL = ["--numel", "10007", "--tensors", "7", "--steps", "2", "--warmup", "1"]


def run(command: list[str], **more) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)


def python_with_torch() -> str | None:
    for python in (str(HERE.parent / ".venv/bin/python"), sys.executable):
        if os.path.exists(python) and run([python, "-c", "import torch"]).returncode == 0:
            return python
    return None


def written(command: list[str], **more) -> dict:
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        ended = run([*command, "--json", file.name], **more)
        assert ended.returncode == 0, ended.stderr + ended.stdout
        return json.load(open(file.name, encoding="utf-8"))


def check_absent() -> None:
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "torch.py").write_text("raise ImportError('it is not here')\n",
                                                    encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": folder}
        for program in [*PROGRAMS, TRAINING]:
            result = written([sys.executable, str(PEERS / f"{program}.py")], env=environment)
            assert result == {"absent": "PyTorch cannot be imported: it is not here"}, result
    refused = run([sys.executable, str(PEERS / "ddp_adamw.py"), "--numel", "3"])
    assert refused.returncode == 2 and "--tensors" in refused.stderr, refused.stderr
    refused = run([sys.executable, str(PEERS / "ddp_adamw.py"), "--numel", "few"])
    assert refused.returncode == 2 and "--numel" in refused.stderr, refused.stderr


CHECK = """
import argparse, sys
sys.path.insert(0, sys.argv[1])
import values
for dtype, clip in (("fp32", 0), ("bf16", 1)):
  options = argparse.Namespace(numel=10007, tensors=7, dtype=dtype, clip=clip, ranks=2, steps=3, warmup=2)
  options.coef = values.clip_coef(options)
  options.eps = values.UNCLIPPED_EPS * options.coef
  assert (options.coef < 1) == bool(clip)
  for factor, steps, is_right in ((1, 5, True), (2, 5, False), (1, 4, False), (1, 6, False)):
    params = values.make_params(options, values.dtype_of(options))
    flat = 0
    for param in params:
      for i in range(param.numel()):
        start = values.scattered(values.PARAM_SEED, flat) * values.PARAM_SCALE
        grad = values.mean_grad(flat, 2) * options.coef * factor
        param.data[i] = values.adamw(start, grad, options.eps, steps)
        flat += 1
    wrong = values.check(options, params)
    assert (wrong is None) == is_right, (dtype, factor, steps, wrong)
"""

# A peer of one rank that forgets an update.
WRONG = """
import os, sys
sys.path.insert(0, sys.argv.pop(1))
import common
options = common.start("")
import torch
from masters import Kernel
class Lazy(Kernel):
  def prepare(self):
    self.count = getattr(self, "count", 0) + 1
    self.step = (lambda: None) if self.count == 2 else self.masters.update
common.run(options, lambda options, rank: Lazy(options, rank, torch.optim.AdamW))
"""


def check_program(python: str, program: str) -> int:
    ranks = ["--ranks", "1", "--threads", "2"] if program in KERNELS else ["--ranks", "2"]
    command = [python, str(PEERS / f"{program}.py"), *SMALL, *ranks]
    for more in ([], ["--dtype", "bf16", "--clip", "1"]):
        result = written([*command, *more])
        if "absent" in result:
            print(f"{program}: absent: {result['absent']}")
            if not more:
                return SKIP
            assert program == "zero_redundancy", result
            continue
        assert 0 < result["step_ms_q1"] <= result["step_ms"] <= result["step_ms_q3"], result
        assert result["numel"] == 10007 and result["world_size"] == int(ranks[1]), result
    return 0


# A training in which one side does less than it should: gradients of half the size, or a step that is left out.
WRONG_SIDE = """
import sys
sys.path.insert(0, sys.argv.pop(1))
what = sys.argv.pop(1)
import training_sides
class Wrong(training_sides.ZeroRedundancy):
  def __init__(self, model, eps):
    super().__init__(model, eps)
    self.steps, step = 0, self.optimizer.step
    def wrong_step():
      self.steps += 1
      if what == "half":
        for param in self.model.parameters():
          param.grad.mul_(0.5)
      if what != "lazy" or self.steps != 2:
        step()
    self.optimizer.step = wrong_step
training_sides.SIDES[3] = Wrong
import torch_training
"""

SMALL_TRAINING = ("--blocks 1 --width 32 --heads 2 --vocabulary 32 --context 8 --batch 2 --rounds 1 --steps 1 "
                  "--alone-rounds 1").split()


def check_training(python: str, library: str) -> None:
    more = {"env": {**os.environ, "ZERO1_LIBRARY": library}}
    result = written([python, str(PEERS / f"{TRAINING}.py"), *SMALL_TRAINING], **more)
    assert result["part"] == "torch" and result["ranks"] == 2, result
    names = [row["name"] for row in result["subjects"]]
    assert names == ["zero1", "zero1_shared", "ddp_adamw", "zero_redundancy", "fsdp2"], names
    for row in result["subjects"]:
        if "absent" not in row:
            assert row["train_ms"] > 0 and row["alone_ratio"] > 0 and row["steps_per_second"] > 0, row
    assert 0 < result["overhead"]["copy_ms"] and 0 < result["overhead"]["core_ms"], result["overhead"]
    for what in ("half", "lazy"):
        ended = run([python, "-c", WRONG_SIDE, str(PEERS), what, *SMALL_TRAINING], **more)
        assert ended.returncode == 1, ended.stdout
        assert "wrong result: zero_redundancy is" in ended.stderr, ended.stderr


def check_values(python: str) -> None:
    ended = run([python, "-c", CHECK, str(PEERS)])
    assert ended.returncode == 0, ended.stderr
    ended = run([python, "-c", WRONG, str(PEERS), *SMALL, "--ranks", "1"])
    assert ended.returncode == 1 and "wrong result: element" in ended.stderr, ended.stderr


def check_compare(python: str, build: str) -> None:
    command = [
        python,
        str(HERE / "compare.py"), "--build", build, "--python", python, "--numel", "64Ki",
        "--rounds", "2", "--steps", "2", "--warmup", "1", "--quick"
    ]
    for part, count in (("peers", 1), ("kernels", 2)):
        result = written([*command, part])
        assert result["part"] == part and len(result["cases"]) == count, result
        for case in result["cases"]:
            ours, *peers = case["subjects"]
            assert ours["name"] == "zero1" and ours["ms"] > 0, ours
            assert peers, case
            for row in peers:
                assert row.get(
                    "absent") or 0 < row["ratio_q1"] <= row["ratio"] <= row["ratio_q3"], row
    failed = run([*command, "peers", "--build", "nowhere"])
    assert failed.returncode == 1 and "has failed" in failed.stderr, failed.stderr


def main() -> int:
    what = sys.argv[1]
    if what == "absent":
        check_absent()
        return 0
    python = python_with_torch()
    if not python:
        print("skipped: no PyTorch")
        return SKIP
    if what == "check":
        check_values(python)
    elif what == TRAINING:
        check_training(python, sys.argv[2])
    elif what == "compare":
        check_compare(python, sys.argv[2])
    else:
        return check_program(python, what)
    return 0


sys.exit(main())
