"""Parameters on their way to forward, where step does not wait for them: each is waited for just before the
forward of the module that it belongs to.

That is of use only for those which nothing else reads before. The first forward with gradients is watched: what its
module's hook has not waited for, or what something has read outside its module (a tied weight called functionally),
is waited for at the end of step from then on. So is what a hook did not see since the last step: that of a compiled
module, say.
A parameter that gets a gradient and was never waited for is an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ..errors import Error, StateError
from ..optimizer import Optimizer
from ._hooks import Hook, removed_with
from ._tensors import Registered


def _tensors_in(values: Any) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors_in(value)


class _Watch(TorchFunctionMode):
    """Calls `saw` with every tensor that a function of torch is given."""

    def __init__(self, saw: Callable[[torch.Tensor], None]):
        super().__init__()
        self._saw = saw

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors_in([*args, *(kwargs or {}).values()]):
            self._saw(tensor)
        return func(*args, **(kwargs or {}))


class Waits:
    """Of all parameters of `module`, by their index in the library."""

    def __init__(self, core: Optimizer, module: torch.nn.Module, registered: Sequence[Registered],
                 stream: Callable[[], int | None], fail: Callable[[Error], Error]):
        self._core, self._registered, self._stream, self._fail = core, registered, stream, fail
        self._index = {id(entry.tensor): index for index, entry in enumerate(registered)}
        self._pending: set[int] = set()  # of the last step, not waited for yet
        self._seen: set[int] = set()  # whose module's hook came, since the last step
        self._outside: set[int] = set()  # read outside their modules, in the forward that was watched
        self._inside = [0] * len(registered)  # how many of its modules are in their forward
        self._watch: _Watch | None = None
        self._watched = False
        handles: list[Any] = [module.register_forward_pre_hook(Hook(self._begin_watch), prepend=True),
                              module.register_forward_hook(Hook(self._end_watch), always_call=True)]
        for owner in module.modules():
            handles += [owner.register_state_dict_pre_hook(Hook(self.wait_all)),
                        owner.register_load_state_dict_pre_hook(Hook(self.wait_all))]
            own = [self._index[id(tensor)] for tensor in owner.parameters(recurse=False)
                   if id(tensor) in self._index]
            if own:
                handles += [owner.register_forward_pre_hook(Hook(self._enter, own)),
                            owner.register_forward_hook(Hook(self._leave, own), always_call=True)]
        self.close = removed_with(self, handles)

    # ---- around the forward of a module ----

    def _enter(self, own: list[int], *_: Any) -> None:
        self._seen.update(own)
        if self._watch:
            for index in own:
                self._inside[index] += 1
        if self._pending:
            for index in own:
                if index in self._pending:
                    self._wait(index)

    def _leave(self, own: list[int], *_: Any) -> None:
        if self._watch:
            for index in own:
                self._inside[index] -= 1

    # ---- the first forward ----

    def _begin_watch(self, *_: Any) -> None:
        if torch.is_grad_enabled() and not self._watched and not self._watch:
            self._watch = _Watch(self._saw)
            self._watch.__enter__()

    def _saw(self, tensor: torch.Tensor) -> None:
        index = self._index.get(id(tensor))
        if index is not None and not self._inside[index]:
            self._outside.add(index)

    def _end_watch(self, _module: Any, _inputs: Any, output: Any) -> None:
        """[output] None: an exception has ended it, perhaps, so that the next one is watched."""
        if self._watch:
            self._watch.__exit__(None, None, None)
            self._watch, self._watched = None, output is not None
            self._inside = [0] * len(self._inside)

    # ---- waiting ----

    def _wait(self, index: int) -> None:
        self._pending.discard(index)
        self._core.wait_param(index, self._stream())

    def after_step(self) -> None:
        """Waits for what modules are not known to wait for."""
        later = self._seen - self._outside if self._watched else set()
        self._seen = set()
        for index in range(len(self._registered)):
            if index not in later:
                self._core.wait_param(index, self._stream())
        self._pending = later

    def wait_all(self, *_: Any) -> None:
        if self._pending:
            self._pending = set()
            self._core.wait_params(self._stream())

    def check_read(self, index: int) -> None:
        """StateError: its gradient is there, so that something has read it, and nothing has waited for it."""
        if index in self._pending:
            raise self._fail(StateError(
                f"parameter {self._registered[index].name!r} was read outside the forward of its module before it was "
                "waited for: call wait_params() first, or make the optimizer without overlap_forward"))
