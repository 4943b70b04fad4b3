"""A model whose backward pass gives every parameter a gradient that was there before: for peers
that take their gradients from autograd alone."""

from __future__ import annotations

import argparse

import torch

import values


class Give(torch.autograd.Function):
    """A loss of zero; its gradients are what the list holds, which it hands over. Behind the
    parameters may come the loss of a part before this one, whose backward is then the next."""
    @staticmethod
    def forward(ctx, grads: list[torch.Tensor], *params: torch.Tensor) -> torch.Tensor:
        ctx.grads, ctx.count = grads, len(params)
        return params[0].new_zeros((), dtype=torch.float32)

    @staticmethod
    def backward(ctx, grad):
        given = tuple(ctx.grads)
        ctx.grads.clear()
        return (None, *given, *[grad] * (ctx.count - len(given)))


class Given(torch.nn.Module):
    def __init__(self, options: argparse.Namespace, rank: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.tensors = torch.nn.ParameterList(values.make_params(options, dtype))
        self.kept = values.make_grads(options, rank)
        self.grads: list[torch.Tensor] = []

    def refill(self) -> None:
        """Before each backward pass."""
        self.grads[:] = [grad.clone() for grad in self.kept]

    def forward(self) -> torch.Tensor:
        return Give.apply(self.grads, *self.tensors)
