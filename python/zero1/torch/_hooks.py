"""Hooks of models and parameters, which keep no optimizer: one that is dropped takes its hooks along."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch


def weakly(method: Callable[..., Any]) -> Callable[..., Any]:
    """Calls a bound method for as long as its object lives; afterwards it does nothing."""
    found = weakref.WeakMethod(method)

    def call(*arguments: Any) -> Any:
        bound = found()
        return bound(*arguments) if bound else None

    return call


def nothing(*_: Any) -> None:
    """The hook of a copy, whose parameters are no optimizer's."""


def _nothing() -> Callable[..., None]:
    return nothing


class Hook:
    """Calls a bound method, weakly, with `first` and what torch gives. While a graph is compiled it does nothing.
    A copy of it, of a model that is copied or pickled, never does."""

    def __init__(self, method: Callable[..., Any], *first: Any):
        self._call, self._first = weakly(method), first

    def __call__(self, *arguments: Any) -> None:
        if not torch.compiler.is_compiling():
            self._call(*self._first, *arguments)

    def __reduce__(self) -> Any:
        return _nothing, ()


def remove(handles: Iterable[Any]) -> None:
    for handle in handles:
        handle.remove()


def removed_with(owner: object, handles: list[Any]) -> Callable[[], None]:
    """Removes them with the owner, or as soon as what is returned is called."""
    finalizer = weakref.finalize(owner, remove, handles)
    finalizer.atexit = False
    return finalizer
