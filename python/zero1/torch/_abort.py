"""A rank whose program ends with an exception tells its peers why, so that they raise instead of waiting."""

import os
import sys
import types
import weakref
from typing import Any

from ..optimizer import Optimizer

_process_of: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
_previous: list[Any] = []


def _abort_all(kind: type[BaseException], problem: BaseException, trace: types.TracebackType | None) -> None:
    for core, process in list(_process_of.items()):
        if process == os.getpid() and not core.closed:  # a forked process has those of its parent, too
            core.abort(f"{kind.__name__}: {problem}")
    _previous[0](kind, problem, trace)


def on_uncaught(core: Optimizer) -> None:
    """From now on, until it is closed or dropped, an exception that nothing catches aborts `core`."""
    _process_of[core] = os.getpid()
    if not _previous:
        _previous.append(sys.excepthook)
        sys.excepthook = _abort_all
