"""The two models of torch_training.py, with the same parameters: a GPT, and one whose forward and
backward cost nothing, as its gradients are there before."""

from __future__ import annotations

import argparse

import torch
from torch.nn import functional

import values
from given import Give

SEED = 1


class Block(torch.nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention = torch.nn.LayerNorm(width)
        self.qkv = torch.nn.Linear(width, 3 * width)
        self.project = torch.nn.Linear(width, width)
        self.before_mlp = torch.nn.LayerNorm(width)
        self.widen = torch.nn.Linear(width, 4 * width)
        self.narrow = torch.nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, context, width = x.shape
        query, key, value = (part.view(batch, context, self.heads, -1).transpose(1, 2)
                             for part in self.qkv(self.before_attention(x)).chunk(3, dim=-1))
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.project(mixed.transpose(1, 2).reshape(batch, context, width))
        return x + self.narrow(functional.gelu(self.widen(self.before_mlp(x))))


class Gpt(torch.nn.Module):
    """Its parameters are the same on every rank."""
    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__()
        torch.manual_seed(SEED)
        self.tokens = torch.nn.Embedding(options.vocabulary, options.width)
        self.places = torch.nn.Embedding(options.context, options.width)
        self.blocks = torch.nn.ModuleList(
            Block(options.width, options.heads) for _ in range(options.blocks))
        self.last_norm = torch.nn.LayerNorm(options.width)
        self.head = torch.nn.Linear(options.width, options.vocabulary, bias=False)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.tokens(tokens) + self.places.weight
        for block in self.blocks:
            x = block(x)
        scores = self.head(self.last_norm(x))
        return functional.cross_entropy(scores.flatten(0, 1), targets.flatten())


def batch(options: argparse.Namespace, rank: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What this rank trains on in a step: tokens, each of which tells the next one."""
    generator = torch.Generator().manual_seed(step * options.ranks + rank)
    first = torch.randint(options.vocabulary, (options.batch, 1), generator=generator)
    tokens = (first + 3 * torch.arange(options.context + 1)) % options.vocabulary
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


class Piece(torch.nn.Module):
    """The parameters of a part of a GPT."""
    def __init__(self, params: list[torch.Tensor], kept: list[torch.Tensor]) -> None:
        super().__init__()
        self.tensors = torch.nn.ParameterList(params)
        self.kept = kept
        self.grads: list[torch.Tensor] = []

    def forward(self, before: torch.Tensor) -> torch.Tensor:
        return Give.apply(self.grads, *self.tensors, before)


class Kept:
    """The gradients of this rank for the parameters of a GPT, in the parts of which they come."""
    def __init__(self, options: argparse.Namespace, rank: int) -> None:
        model = Gpt(options)
        parts = [[model.tokens.weight, model.places.weight],
                 *(list(block.parameters()) for block in model.blocks),
                 [*model.last_norm.parameters(), model.head.weight]]
        self.counts = [len(part) for part in parts]
        self.shapes = [param.shape for part in parts for param in part]
        self.sizes = [shape.numel() for shape in self.shapes]
        self.grads = self.shaped(values.fill(self.sizes, torch.float32, rank, values.GRAD_SCALE))

    def shaped(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        return [tensor.view(shape) for tensor, shape in zip(tensors, self.shapes)]

    def params(self) -> list[torch.Tensor]:
        """New ones, with their initial values."""
        return self.shaped(
            values.fill(self.sizes, torch.float32, values.PARAM_SEED, values.PARAM_SCALE))


class Costless(torch.nn.Module):
    """Gives its gradients away in backward, part by part, as a GPT's come."""
    def __init__(self, kept: Kept) -> None:
        super().__init__()
        params, at = kept.params(), 0
        self.blocks = torch.nn.ModuleList()
        for count in kept.counts:
            self.blocks.append(Piece(params[at:at + count], kept.grads[at:at + count]))
            at += count

    def refill(self) -> None:
        """Before each backward pass: what it takes from the allocator and from memory."""
        for piece in self.blocks:
            piece.grads[:] = [grad.clone() for grad in piece.kept]

    def forward(self) -> torch.Tensor:
        x = torch.zeros(())
        for piece in self.blocks:
            x = piece(x)
        return x
