"""A rank whose program ends with an exception tells its peers why, so that they raise instead of waiting."""

import sys
import types
import weakref
from typing import Any

from ..optimizer import Optimizer

_live: weakref.WeakSet[Optimizer] = weakref.WeakSet()
_previous: list[Any] = []


def _abort_all(kind: type[BaseException], problem: BaseException, trace: types.TracebackType | None) -> None:
    for core in list(_live):
        if not core.closed:
            core.abort(f"{kind.__name__}: {problem}")
    _previous[0](kind, problem, trace)


def on_uncaught(core: Optimizer) -> None:
    """From now on, until it is closed or dropped, an exception that nothing catches aborts `core`."""
    _live.add(core)
    if not _previous:
        _previous.append(sys.excepthook)
        sys.excepthook = _abort_all
