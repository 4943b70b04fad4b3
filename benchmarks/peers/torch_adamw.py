#!/usr/bin/env python3
"""Times torch.optim.AdamW(fused=True) on a GPU, for comparison with bench_kernels, and prints JSON.

  one_pass_fp32_fp32    fp32 parameters and gradients: the optimizer's step alone
  two_passes_fp32_fp32  clip_grad_norm_ before it
  two_passes_bf16_fp32  fp32 masters: clip_grad_norm_, the step, the new values to bf16 parameters
  two_passes_bf16_bf16  the same, from bf16 gradients, which are cast to fp32 first

They bear the names of the bench_kernels cases that do the same work. Without PyTorch, or without a
GPU that it can use, it prints {"absent": why} and exits with 0."""

import argparse
from collections.abc import Callable

from common import spread, write

MAX_NORM = 1.0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--numel", type=int, default=256 << 20, help="parameters [256 Mi]")
    parser.add_argument("--tensors", type=int, default=16, help="of equal size [16]")
    parser.add_argument("--steps", type=int, default=20, help="repetitions that count [20]")
    parser.add_argument("--warmup", type=int, default=3, help="repetitions before them [3]")
    parser.add_argument("--json", metavar="FILE", help="where it goes [standard output]")
    return parser.parse_args()


def absent() -> str | None:
    """Why nothing can be measured."""
    try:
        import torch
    except ImportError as error:
        return f"PyTorch cannot be imported: {error}"
    if not torch.version.cuda:
        return f"PyTorch {torch.__version__} is built without CUDA"
    try:
        torch.cuda.init()
        torch.zeros(1, device="cuda")
    except Exception as error:  # of several kinds: no driver, too old a driver, no device
        return f"PyTorch has no GPU: {error}"
    return None


def make_case(options: argparse.Namespace, bf16_params: bool, bf16_grads: bool,
              clip: bool) -> Callable[[], None]:
    """One step, as a training loop would write it."""
    import torch
    generator = torch.Generator("cuda").manual_seed(1)

    def random(scale: float, dtype: torch.dtype) -> list[torch.Tensor]:
        each = options.numel // options.tensors
        return [
            torch.randn(each, device="cuda", generator=generator).mul_(scale).to(dtype)
            for _ in range(options.tensors)
        ]

    masters = [torch.nn.Parameter(tensor) for tensor in random(0.02, torch.float32)]
    grads = random(0.01, torch.bfloat16 if bf16_grads else torch.float32)
    wide = [torch.empty_like(grad, dtype=torch.float32) for grad in grads] if bf16_grads else grads
    params = [master.detach().bfloat16() for master in masters] if bf16_params else []
    for master, grad in zip(masters, wide):
        master.grad = grad
    optimizer = torch.optim.AdamW(masters, lr=1e-3, fused=True)

    def step() -> None:
        if bf16_grads:
            torch._foreach_copy_(wide, grads)
        if clip:
            torch.nn.utils.clip_grad_norm_(masters, MAX_NORM, foreach=True)
        optimizer.step()
        if params:
            torch._foreach_copy_(params, [master.detach() for master in masters])

    return step


def measure(options: argparse.Namespace, step: Callable[[], None]) -> list[float]:
    import torch
    times = []
    for repetition in range(options.warmup + options.steps):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        step()
        end.record()
        end.synchronize()
        if repetition >= options.warmup:
            times.append(begin.elapsed_time(end))
    return times


def measure_copy(options: argparse.Namespace) -> list[float]:
    import torch
    source = torch.randn(options.numel, device="cuda")
    target = torch.empty_like(source)
    return measure(options, lambda: target.copy_(source))


def run(options: argparse.Namespace) -> dict:
    import torch
    cases = {
        "one_pass_fp32_fp32": {"bf16_params": False, "bf16_grads": False, "clip": False},
        "two_passes_fp32_fp32": {"bf16_params": False, "bf16_grads": False, "clip": True},
        "two_passes_bf16_fp32": {"bf16_params": True, "bf16_grads": False, "clip": True},
        "two_passes_bf16_bf16": {"bf16_params": True, "bf16_grads": True, "clip": True},
    }
    result = {
        "torch": torch.__version__, "cuda": torch.version.cuda,
        "gpu": torch.cuda.get_device_name(), "numel": options.numel, "tensors": options.tensors,
        "steps": options.steps, "warmup": options.warmup, "copy": spread("ms", measure_copy(options)),
        "cases": [],
    }  # yapf: disable
    for name, what in cases.items():
        step = make_case(options, **what)
        result["cases"].append({"name": name, **spread("ms", measure(options, step))})
        del step
        torch.cuda.empty_cache()
    return result


def main() -> None:
    options = parse()
    why = absent()
    write({"absent": why} if why else run(options), options.json)


main()
