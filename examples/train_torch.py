#!/usr/bin/env python3
"""Trains a small GPT on the bytes of a text with PyTorch, its optimizer's state sharded over the ranks by zero1.

    pip install ./python torch
    bible -f gen1:1-rev22:21 >kjv.txt    # of Debian's bible-kjv; any text of 100 kB or more will do
    mpirun -n 2 python3 examples/train_torch.py --data kjv.txt --checkpoint torch_run --resume
    torchrun --standalone --nproc-per-node 2 -- examples/train_torch.py --data kjv.txt    # the same without MPI

What makes it sharded is in make_optimizer: no DistributedDataParallel, and zero1.torch.DistributedOptimizer in place
of AdamW. `--optimizer ddp` trains the same model from the same seed on the same windows with DistributedDataParallel
and torch.optim.AdamW, to compare with."""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TextIO

import torch
import torch.distributed
import torch.nn.functional as F
from torch import nn

import zero1.torch

# ---- the model ----


class Block(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.qkv, self.project = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.norm2, self.up, self.down = nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        batch, length, dim = stream.shape
        heads = self.qkv(self.norm1(stream)).view(batch, length, 3, self.heads, dim // self.heads)
        mixed = F.scaled_dot_product_attention(*heads.permute(2, 0, 3, 1, 4), is_causal=True)
        stream = stream + self.project(mixed.transpose(1, 2).reshape(batch, length, dim))
        return stream + self.down(F.gelu(self.up(self.norm2(stream))))


class GPT(nn.Module):
    """Predicts each next byte. forward: the mean loss in nats of windows [batch, context + 1] of bytes."""

    def __init__(self, layers: int, dim: int, heads: int, context: int):
        super().__init__()
        self.embed, self.position = nn.Embedding(256, dim), nn.Embedding(context, dim)
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 256)
        for param in self.parameters():
            if param.ndim > 1:
                nn.init.normal_(param, std=0.5 / math.sqrt(dim))

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        inputs, targets = windows[:, :-1], windows[:, 1:]
        stream = self.embed(inputs) + self.position.weight[:inputs.shape[1]]
        logits = self.head(self.norm(self.blocks(stream)))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


# ---- the optimizer: what is to be copied ----


def make_optimizer(model: nn.Module, args: argparse.Namespace) -> tuple[nn.Module, torch.optim.Optimizer, Callable]:
    """What forward is called on, the optimizer, and what clips the gradients' norm and returns it."""
    groups = [{"params": [param for param in model.parameters() if param.ndim > 1]},
              {"params": [param for param in model.parameters() if param.ndim <= 1], "weight_decay": 0.0}]
    hyper = {"lr": args.lr, "betas": (0.9, 0.99), "weight_decay": args.weight_decay}
    if args.optimizer == "zero1":
        optimizer = zero1.torch.DistributedOptimizer(groups, module=model, threads=args.threads, **hyper)
        return model, optimizer, lambda: optimizer.clip_grad_norm(args.clip)
    parallel = nn.parallel.DistributedDataParallel(model) if args.world_size > 1 else model
    return (parallel, torch.optim.AdamW(groups, fused=args.fused, **hyper),
            lambda: nn.utils.clip_grad_norm_(model.parameters(), args.clip))


# ---- the text ----


class Text:
    """The bytes of a file, of which the last twentieth is held out."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        with open(args.data, "rb") as file:
            self.bytes = torch.frombuffer(bytearray(file.read() or b"\0"), dtype=torch.uint8)
        self.train = len(self.bytes) - len(self.bytes) // 20
        if len(self.bytes) - self.train <= args.context:
            raise OSError(f"{args.data} has {len(self.bytes)} bytes, and --context {args.context} needs "
                          f"{20 * (args.context + 1)}")

    def windows(self, starts: torch.Tensor) -> torch.Tensor:
        return self.bytes[starts[:, None] + torch.arange(self.args.context + 1)].long()

    def batch(self, step: int) -> torch.Tensor:
        """This rank's part of the windows of a step, which are the same for any number of ranks."""
        random = torch.Generator().manual_seed(self.args.seed * 1_000_003 + step)
        starts = torch.randint(self.train - self.args.context, (self.args.batch,), generator=random)
        return self.windows(starts[self.args.rank::self.args.world_size])

    @torch.no_grad()
    def held_out_loss(self, model: nn.Module) -> float:
        """Over the first --val-windows windows that are held out."""
        starts = torch.arange(self.train, len(self.bytes) - self.args.context, self.args.context)
        parts = starts[:self.args.val_windows].split(self.args.batch)
        return sum(model(self.windows(part)).item() * len(part) for part in parts) / sum(map(len, parts))


# ---- what is told, by rank 0 ----


def on_terminal() -> bool:
    """mpirun gives its ranks a terminal of their own: where its own output goes decides."""
    if "OMPI_COMM_WORLD_SIZE" in os.environ:
        try:
            return os.readlink(f"/proc/{os.getppid()}/fd/1").startswith(("/dev/pts/", "/dev/tty"))
        except OSError:
            return False
    return sys.stdout.isatty()


class Progress:
    """A bar in a terminal, else a line every --log-every steps; and --log, a line of JSON for each step."""

    def __init__(self, args: argparse.Namespace, first: int):
        self.args, self.first, self.start = args, first, time.monotonic()
        self.bar, self.drawn, self.log = on_terminal(), 0.0, self._open_log(first)

    def _open_log(self, first: int) -> TextIO | None:
        if not self.args.log:
            return None
        kept: list[str] = []  # of the steps before the one that is resumed from
        if first and os.path.exists(self.args.log):
            with open(self.args.log, encoding="utf-8") as before:
                kept = [line for line in before if line.endswith("\n") and json.loads(line)["step"] <= first]
        log = open(self.args.log, "w", encoding="utf-8", buffering=1)
        log.writelines(kept)
        return log

    def record(self, row: dict[str, Any]) -> None:
        if self.log:
            self.log.write(json.dumps(row) + "\n")
        step, now = row["step"], time.monotonic()
        rate = (step - self.first) / (now - self.start)
        text = "  ".join(f"{name} {value:.4f}" for name, value in row.items() if name in ("loss", "norm", "held_out"))
        text = f"step {step:5d}  {text}".replace("held_out", "held-out loss")
        text += f"  {rate:.1f} steps/s" if rate else ""
        stays = "held_out" in row or (not self.bar and step % self.args.log_every == 0)
        if self.bar:
            done = 24 * step // max(self.args.steps, 1)
            left = round((self.args.steps - step) / rate) if rate else 0
            if stays:
                print(f"\r\033[K{text}", flush=True)
            elif now - self.drawn > 0.1:  # as often as an eye takes it in
                print(f"\r\033[K[{'#' * done}{'.' * (24 - done)}] {text}  {left // 60}:{left % 60:02d} left",
                      end="", flush=True)
                self.drawn = now
        elif stays:
            print(text, flush=True)


# ---- training ----


def learning_rate(step: int, args: argparse.Namespace) -> float:
    """Up in a line, down in a cosine to a tenth."""
    if step <= args.warmup:
        return args.lr * step / args.warmup
    done = (step - args.warmup) / max(args.steps - args.warmup, 1)
    return args.lr * (0.55 + 0.45 * math.cos(math.pi * done))


def resume(optimizer: torch.optim.Optimizer, args: argparse.Namespace) -> int:
    """The step that training goes on from."""
    try:
        optimizer.load(args.checkpoint, keep_hyper=True)
    except zero1.NotFoundError:
        if args.rank == 0:
            print(f"no checkpoint in {args.checkpoint}: from the start")
        return 0
    first = optimizer.info().attempts
    if args.rank == 0:
        print(f"goes on from step {first} of {args.checkpoint}")
    return first


def train(args: argparse.Namespace, text: Text) -> None:
    torch.manual_seed(args.seed)
    model = GPT(args.layers, args.dim, args.heads, args.context)
    parallel, optimizer, clip = make_optimizer(model, args)
    first = resume(optimizer, args) if args.resume else 0
    progress = Progress(args, first) if args.rank == 0 else None
    if progress:
        print(f"{sum(param.numel() for param in model.parameters()):,} parameters, {args.world_size} ranks, "
              f"{args.optimizer}", flush=True)
        if not first:
            progress.record({"step": 0, "held_out": text.held_out_loss(model)})

    for step in range(first + 1, args.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args)
        optimizer.zero_grad()
        loss = parallel(text.batch(step))
        loss.backward()
        norm = clip()
        optimizer.step()
        if progress:
            row = {"step": step, "loss": loss.item(), "norm": norm.item(), "lr": learning_rate(step, args)}
            if step == args.steps or (args.val_every and step % args.val_every == 0):
                row["held_out"] = text.held_out_loss(model)  # the others wait for it in the next step
            progress.record(row)
        if args.checkpoint and (step == args.steps or (args.save_every and step % args.save_every == 0)):
            optimizer.save_async(args.checkpoint, keep_last=3)  # written while training goes on
    if args.checkpoint:
        optimizer.wait()


# ---- the command line ----


def launched() -> tuple[int, int]:
    """Rank and number of ranks, as torchrun or mpirun tell them."""
    for rank, size in (("RANK", "WORLD_SIZE"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
                       ("PMI_RANK", "PMI_SIZE")):
        if rank in os.environ and size in os.environ:
            return int(os.environ[rank]), int(os.environ[size])
    return 0, 1


class Parser(argparse.ArgumentParser):
    """Every rank finds the same; rank 0 says it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"train_torch: {message}\n" if launched()[0] == 0 else None)

    def print_help(self, file: Any = None) -> None:
        if launched()[0] == 0:
            super().print_help(file)


def at_least(least: float, kind: type = int) -> Callable[[str], Any]:
    def number(text: str) -> Any:
        value = kind(text)
        if not least <= value < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not a number from {least:g}")
        return value

    number.__name__ = "whole number" if kind is int else "number"  # argparse: invalid ... value
    return number


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(prog="train_torch.py", description=__doc__.split("\n")[0])

    def add(name: str, **options: Any) -> None:
        default = "" if options.get("default") is None else " [%(default)s]"
        parser.add_argument(name, **options | {"help": options["help"] + default})

    add("--data", required=True, metavar="FILE", help="the text; its last twentieth is held out")
    add("--optimizer", choices=["zero1", "ddp"], default="zero1", help="ddp: DistributedDataParallel and AdamW")
    add("--fused", action="store_true", help="of ddp: AdamW(fused=True)")
    add("--layers", type=at_least(1), default=4, metavar="N", help="of the model")
    add("--dim", type=at_least(1), default=128, metavar="N", help="width")
    add("--heads", type=at_least(1), default=4, metavar="N", help="of attention; they divide the width")
    add("--context", type=at_least(1), default=128, metavar="N", help="bytes of a window")
    add("--batch", type=at_least(1), default=16, metavar="N", help="windows of a step, shared out over the ranks")
    add("--steps", type=at_least(0), default=500, metavar="N", help="in all, those before a resume included")
    add("--lr", type=at_least(0, float), default=2e-3, metavar="X", help="highest learning rate")
    add("--warmup", type=at_least(0), default=50, metavar="N", help="steps until it is reached")
    add("--weight-decay", type=at_least(0, float), default=0.1, metavar="X", help="of matrices")
    add("--clip", type=at_least(1e-9, float), default=1.0, metavar="X", help="highest norm of the gradients")
    add("--seed", type=at_least(0), default=1, metavar="N", help="of initial weights and drawn windows")
    add("--threads", type=at_least(1), default=1, metavar="N", help="of each rank")
    add("--val-every", type=at_least(0), default=100, metavar="N", help="steps between held-out losses; 0: at the end")
    add("--val-windows", type=at_least(1), default=256, metavar="N", help="for a held-out loss")
    add("--checkpoint", metavar="ROOT", help="a folder for checkpoints; one is saved at the end, too")
    add("--save-every", type=at_least(0), default=100, metavar="N", help="steps between them; 0: at the end alone")
    add("--resume", action="store_true", help="go on from ROOT's latest; from the start where there is none")
    add("--log", metavar="FILE", help="a line of JSON for each step: loss (of rank 0's windows), norm, held_out")
    add("--log-every", type=at_least(1), default=20, metavar="N", help="steps between lines where there is no terminal")
    args = parser.parse_args(argv)
    args.rank, args.world_size = launched()
    if args.dim % args.heads:
        parser.error(f"--heads: {args.heads} heads do not divide --dim {args.dim}")
    if args.batch % args.world_size:
        parser.error(f"--batch: {args.batch} windows cannot be shared out equally over {args.world_size} ranks")
    if args.resume and not args.checkpoint:
        parser.error("--resume: --checkpoint ROOT is missing")
    if args.optimizer == "ddp" and args.checkpoint:
        parser.error("--checkpoint: of --optimizer zero1 alone")
    if args.optimizer == "ddp" and args.world_size > 1 and "RANK" not in os.environ:
        parser.error("--optimizer ddp: torch.distributed wants torchrun, not mpirun")
    if args.fused and args.optimizer != "ddp":
        parser.error("--fused: of --optimizer ddp alone")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    torch.set_num_threads(args.threads)
    if "RANK" in os.environ:  # torchrun; under mpirun zero1 finds the ranks by itself
        torch.distributed.init_process_group("gloo")
    try:
        train(args, Text(args))
    except (OSError, zero1.Error) as error:
        sys.exit(f"train_torch: {error}" if args.rank == 0 or isinstance(error, OSError) else 1)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
