"""Who owns a handle of the library, and for how long.

A Handle destroys what it holds when it is closed, or when nothing refers to it any more, or when the
interpreter ends. NumPy views of the library's memory hold it, so that memory never goes under them: a
handle that is closed with views in use refuses every call and is destroyed with the last view. It holds
what it needs (an optimizer its communicator), which therefore goes after it."""

import ctypes
import os
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy

from . import _mpi
from ._library import function, library, text_of
from .errors import PeerError, StateError, TimeoutError, error_of


def _destroy(noun: str, pointers: list[int], needs: Any) -> None:
    del needs  # held until now
    if pointers:
        function(f"{noun}_{'close' if noun == 'checkpoint' else 'destroy'}")(
            ctypes.byref(ctypes.c_void_p(pointers.pop())))


class Handle:
    """[noun] comm, optimizer or checkpoint. `needs` is kept until after the handle is destroyed."""

    def __init__(self, noun: str, pointer: int, needs: Any = None):
        self.noun, self.closed = noun, False
        self._pointers = [pointer]  # empty once it is destroyed
        weakref.finalize(self, _destroy, noun, self._pointers, needs)
        _living.add(self)

    @property
    def pointer(self) -> int:
        if self.closed or not self._pointers:
            raise StateError(f"the {self.noun} is closed")
        return self._pointers[0]

    def check(self, status: int) -> None:
        """Raises what `status`, which a call on this handle returned, stands for."""
        if status:
            raise failure(status, function(f"{self.noun}_last_error")(self._pointers[0]))

    def call(self, name: str, *arguments: Any) -> None:
        """zero1_NAME(handle, arguments...); raises where that fails."""
        status = function(name)(self.pointer, *arguments)
        if status:
            self.check(status)

    def meet(self, name: str, *arguments: Any) -> None:
        """Makes a collective call with arguments that the library refuses, in place of one that this rank has
        found an error in: so peers do not wait for it, and raise, too."""
        function(name)(self.pointer, *arguments)


_living: weakref.WeakSet[Handle] = weakref.WeakSet()


def _forget() -> None:
    """A forked process has no handle: those of its parent are not its to use, or to end."""
    for handle in list(_living):
        handle.closed = True
        handle._pointers.clear()
    _mpi.leave_running()


os.register_at_fork(after_in_child=_forget)


class ClosedHandle(Handle):
    """Stands where a handle was: what asks for its pointer raises."""

    def __init__(self, noun: str):
        self.noun, self.closed = noun, True


def failure(status: int, raw: bytes | None) -> Exception:
    """The exception of a status that is not 0, with the library's text."""
    error = error_of(status, text_of(raw) or text_of(library().zero1_status_string(status)))
    if isinstance(error, (PeerError, TimeoutError)):
        _mpi.leave_running()  # MPI_Finalize may hang from now on
    return error


class _Memory:
    """What NumPy asks for where memory is. It becomes the base of the view, and holds the handle."""

    def __init__(self, handle: Handle, address: int, shape: Sequence[int], typestr: str, writable: bool):
        self.handle = handle
        self.__array_interface__ = {"data": (address, not writable), "shape": tuple(shape),
                                    "typestr": typestr, "version": 3}


def view(handle: Handle, address: int, shape: Sequence[int], typestr: str = "<f4",
         writable: bool = True) -> numpy.ndarray:
    """The library's memory as an array, without a copy. It holds `handle`."""
    if not address:  # of no element
        return numpy.empty(tuple(shape), typestr)
    return numpy.asarray(_Memory(handle, address, shape, typestr, writable))


def guarded(call: Callable[..., int], problems: list[BaseException]) -> Callable[..., int]:
    """`call` for the library, which cannot be passed through by an exception: that is kept, and -1."""
    def guard(*arguments: Any) -> int:
        try:
            return call(*arguments)
        except BaseException as problem:  # raised again where the library has returned
            problems.append(problem)
            return -1
    return guard
