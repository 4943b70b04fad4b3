"""A program for tests/test_train_torch.py, on each rank as torchrun would start it: train_torch_gradients.py TEXT.
What the library has averaged are the gradients of DistributedDataParallel, bit for bit."""

import importlib.util
import pathlib
import sys

import torch
import torch.distributed

import zero1.torch

EXAMPLE = pathlib.Path(__file__).resolve().parent.parent / "examples" / "train_torch.py"
spec = importlib.util.spec_from_file_location("train_torch", EXAMPLE)
train_torch = importlib.util.module_from_spec(spec)
spec.loader.exec_module(train_torch)

torch.set_num_threads(1)
torch.distributed.init_process_group("gloo")
args = train_torch.parse(["--data", sys.argv[1], "--context", "16", "--batch", "4"])
windows = train_torch.Text(args).batch(1)


def model() -> torch.nn.Module:
    torch.manual_seed(1)
    return train_torch.GPT(2, 32, 2, 16)


theirs, ours = model(), model()
parallel = torch.nn.parallel.DistributedDataParallel(theirs)
parallel(windows).backward()
optimizer = zero1.torch.DistributedOptimizer(ours.named_parameters(), module=ours, lr=1e-3, betas=(0.0, 0.9),
                                             bucket_numel=4096, threads=1)
ours(windows).backward()
optimizer.step()
optimizer.consolidate_state_dict(to=0)
if args.rank == 0:
    state = optimizer.state_dict()["state"]  # without a first moment before, exp_avg is the gradient
    params = list(theirs.named_parameters())
    differ = [name for place, (name, param) in enumerate(params)
              if not torch.equal(param.grad, state[place]["exp_avg"])]
    assert len(state) == len(params) and not differ, differ
    print(f"{len(params)} gradients are equal")
torch.distributed.destroy_process_group()
