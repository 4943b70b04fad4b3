"""Gradients on their way from autograd to the library.

A parameter's .grad is None between steps, as after torch's zero_grad. Autograd then puts a new tensor there, which
the hook copies into the library's buffer; from there on .grad is that buffer, to which further microbatches
add. (A buffer that is zeroed first and added to takes three times as long.) With the last microbatch the hook
hands the gradient over: its bucket may be on its way from then on, and nobody may write it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

import torch

from ..errors import Error, InvalidError, StateError
from ..optimizer import Optimizer
from ._hooks import removed_with
from ._tensors import Registered, view_of

_HANDED_OVER = ("was handed over already: accumulate inside no_sync(), or make the optimizer with overlap=False, which "
                "hands gradients over in step")


_of_tensor: weakref.WeakValueDictionary[int, Gradients] = weakref.WeakValueDictionary()  # by id: it holds the tensor


class Gradients:
    """Of all parameters, by their index. `before_first` is called before the first one of a step is taken, and
    `before_each(index)`, where there is one, before each; `fail` tells the peers and gives the exception to raise.

    A hook finds the caches full of what backward works with: each function and object that it needs is fetched from
    memory, so there are few."""

    def __init__(self, core: Optimizer, registered: Sequence[Registered], dtype: torch.dtype, overlap: bool,
                 stream: Callable[[], int | None], before_first: Callable[[], None],
                 before_each: Callable[[int], None] | None, fail: Callable[[Error], Error]):
        self.core, self._registered, self._overlap = core, registered, overlap
        self._before_first, self._before_each, self._fail = before_first, before_each, fail
        self.synchronizing = True  # False: within no_sync
        self._begun = False  # some gradient of this step is in the buffers
        self._trainable = [index for index, entry in enumerate(registered) if entry.tensor.requires_grad]
        self._views: list[torch.Tensor | None] = [None] * len(registered)
        for index in self._trainable:
            address, like = core.grad_pointer(index), registered[index].tensor
            self._views[index] = view_of(core, address, like, dtype)
        self._same_dtype = not registered or dtype == registered[0].tensor.dtype
        self._on_host = not registered or registered[0].tensor.device.type == "cpu"
        self._stream = _default_stream if self._on_host else stream
        self._taken = [False] * len(registered)  # the buffer holds it
        self._versions: list[int | None] = [None] * len(registered)  # of the buffer, as it was handed over
        keys = [id(registered[index].tensor) for index in self._trainable]
        for earlier in {_of_tensor.get(key) for key in keys}:
            if earlier:  # of an optimizer whose parameters have now moved into this one's memory
                earlier.close()
        _of_tensor.update(dict.fromkeys(keys, self))
        itself = weakref.ref(self)
        self._remove_hooks = removed_with(self, [
            registered[index].tensor.register_post_accumulate_grad_hook(_hook(itself, index))
            for index in self._trainable])

    def close(self) -> None:
        """No hook works any more, and no .grad is the library's memory."""
        self._remove_hooks()
        for index in self._trainable:
            self._registered[index].tensor.grad = None
        self._views = [None] * len(self._views)

    def accumulated(self, index: int) -> None:
        """Autograd has added to .grad of a parameter."""
        if self._versions[index] is not None:
            raise self._fail(StateError(f"the gradient of {self._registered[index].name!r} {_HANDED_OVER}"))
        self._take(index)
        if self._overlap and self.synchronizing:
            self._hand_over(index)

    @property
    def handed_over(self) -> bool:
        """Whether some gradient is on its way."""
        return any(version is not None for version in self._versions)

    def _begin(self) -> None:
        self._begun = True
        self._before_first()

    def _take(self, index: int) -> None:
        """What is in .grad goes into the buffer, and the buffer becomes .grad."""
        tensor, view = self._registered[index].tensor, self._views[index]
        grad = tensor.grad
        assert grad is not None and view is not None
        if grad is view:
            self._taken[index] = True
            return
        if not self._begun:
            self._begin()
        if grad.layout != torch.strided:
            raise self._fail(InvalidError(f"the gradient of {self._registered[index].name!r} is {grad.layout}: sparse "
                                          "ones cannot be reduce-scattered"))
        if not self._same_dtype and self._taken[index]:
            with torch.no_grad():
                view.add_(grad)  # main gradients in fp32: .grad holds those of one microbatch alone
        else:
            if self._before_each is not None:
                self._before_each(index)
            self._copy(index, view, grad)
        self._taken[index] = True
        tensor.grad = view if self._same_dtype else None

    def _copy(self, index: int, view: torch.Tensor, grad: torch.Tensor) -> None:
        """On the host the library's own copy is the faster one, but has one thread. It takes what lies in memory
        as it is: no tensor that is to be negated, or is all zeros without memory."""
        if (self._on_host and grad.dtype == view.dtype and grad.is_contiguous() and torch.get_num_threads() == 1
                and not grad.is_neg() and not grad._is_zerotensor()):
            self.core.set_grad(index, grad.data_ptr())
        else:
            with torch.no_grad():
                view.copy_(grad)

    def _hand_over(self, index: int) -> None:
        view = self._views[index]
        assert view is not None
        self._versions[index] = view._version
        self.core.grad_ready(index, self._stream())

    def _check_untouched(self, index: int) -> None:
        tensor, view = self._registered[index].tensor, self._views[index]
        assert view is not None
        if view._version != self._versions[index] or tensor.grad is not (view if self._same_dtype else None):
            raise self._fail(StateError(
                f"the gradient of {self._registered[index].name!r} was written, or set to another, after backward had "
                "handed it over: clip with the optimizer's clip_grad_norm, or make it with overlap=False"))

    def hand_over_rest(self) -> None:
        """Of all that are not yet, in the order in which backward finishes them. Those without a gradient are
        absent. StateError: someone wrote a gradient after it was handed over."""
        if not self._begun:
            self._begin()  # peers with a gradient did so in their backward
        for index in reversed(self._trainable):
            tensor, view = self._registered[index].tensor, self._views[index]
            assert view is not None
            if self._versions[index] is not None:
                self._check_untouched(index)
                continue
            if tensor.grad is not None:
                self._take(index)
            elif self._same_dtype:  # model.zero_grad(), say, has taken it away
                self._taken[index] = False
            if self._taken[index]:
                self._hand_over(index)
            else:
                self._versions[index] = view._version
                self.core.grad_absent(index, self._stream())

    def zero(self) -> None:
        """What is in the buffers, and not handed over."""
        for index in self._trainable:
            view = self._views[index]
            if self._taken[index] and view is not None:
                view.zero_()

    def give_up(self) -> None:
        """They belong to no step any more."""
        for index in self._trainable:
            self._registered[index].tensor.grad = None
        self._taken = [False] * len(self._taken)
        self._versions = [None] * len(self._versions)
        self._begun = False


def _default_stream() -> None:
    """The host has no other."""


def _hook(gradients: weakref.ref[Gradients], index: int) -> Callable[[torch.Tensor], None]:
    def hook(_: torch.Tensor) -> None:
        found = gradients()
        if found is not None:
            found.accumulated(index)

    return hook
