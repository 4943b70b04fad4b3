"""The part of Optimizer that saves and loads checkpoints."""

import ctypes
import os
from collections.abc import Callable, Mapping
from typing import Any

from . import _structs
from ._handle import Handle
from ._library import options_of
from .dtypes import number_of
from .errors import InvalidError
from .results import SaveReport, from_struct

MODES = {"pinned": 0, "snapshot": 1}


def _pairs_of(pairs: Mapping[str, str] | None) -> tuple[Any, int]:
    """The C array of a mapping, and its length."""
    pairs = pairs or {}
    made = (_structs.Pair * max(len(pairs), 1))()
    for pair, (key, value) in zip(made, pairs.items()):
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidError(f"metadata {key!r:.100}: key and value are texts, not {value!r:.100}")
        try:
            pair.key, pair.value = key, value
        except InvalidError as error:
            raise InvalidError(f"metadata {key!r:.100}: its {error}") from None
    return made, len(pairs)


class Checkpoints:
    """Calls over the handle of the class that has it."""

    _handle: Handle

    def _collective(self, call: str, path: str | os.PathLike[str], options: Callable[[], Any]) -> None:
        """zero1_CALL(handle, path, options()); where the options are wrong every rank raises."""
        try:
            made = options()
        except InvalidError:
            self._handle.meet(call, None, None)
            raise
        self._handle.call(call, path, ctypes.byref(made))

    def _save(self, call: str, root: str | os.PathLike[str], metadata: Mapping[str, str] | None,
              rank_metadata: Mapping[str, str] | None, mode: str, **values: int) -> None:
        def options() -> Any:
            made = options_of("save", mode=number_of(MODES, mode, "mode"), **values)
            made.metadata, made.metadata_count = _pairs_of(metadata)
            made.rank_metadata, made.rank_metadata_count = _pairs_of(rank_metadata)
            return made
        self._collective(call, root, options)

    def save(self, root: str | os.PathLike[str], *, keep_last: int = 0, keep_every: int = 0,
             metadata: Mapping[str, str] | None = None, rank_metadata: Mapping[str, str] | None = None,
             no_lock: bool = False) -> None:
        """Writes ROOT/step-<updates> and waits until it is safe. Collective; between steps.

        keep_last, keep_every: older ones go but the newest keep_last and those whose step is a multiple of
        keep_every; 0 and 0: all stay. metadata: of the run, the same on every rank; rank_metadata: of this
        rank. IOError: names the file. LockedError: another job writes there. InvalidError, StateError,
        MismatchError; the failure of an earlier save_async."""
        self._save("checkpoint_save", root, metadata, rank_metadata, "pinned", keep_last=keep_last,
                   keep_every=keep_every, no_lock=no_lock)

    def save_async(self, root: str | os.PathLike[str], *, mode: str = "pinned", keep_last: int = 0,
                   keep_every: int = 0, metadata: Mapping[str, str] | None = None,
                   rank_metadata: Mapping[str, str] | None = None, no_lock: bool = False) -> None:
        """The same, written while training goes on. [mode] "pinned": the next update waits for the writer,
        bucket by bucket; "snapshot": state is copied first, and no update waits. Errors of the writing come
        with the next wait, poll, save or save_async."""
        self._save("checkpoint_save_async", root, metadata, rank_metadata, mode, keep_last=keep_last,
                   keep_every=keep_every, no_lock=no_lock)

    def wait(self) -> None:
        """Waits for the save that is under way, and raises what it failed with."""
        self._handle.call("checkpoint_wait")

    def poll(self) -> bool:
        """Whether no save is under way any more; raises what the last one failed with, once."""
        done = ctypes.c_int32()
        self._handle.call("checkpoint_poll", ctypes.byref(done))
        return bool(done.value)

    def report(self) -> SaveReport:
        """What the last save that has ended cost on this rank. StateError: none has."""
        struct = _structs.SaveReport()
        self._handle.call("checkpoint_report", ctypes.byref(struct), ctypes.sizeof(struct))
        return from_struct(SaveReport, struct)

    def load(self, path: str | os.PathLike[str], *, weights_only: bool = False, keep_hyper: bool = False,
             allow_dtype_change: bool = False, allow_missing: str | None = None,
             allow_extra: str | None = None) -> None:
        """Sets everything to what was saved, by any number of ranks: the same bits. Collective; between
        steps. [path] a checkpoint, or a root: then its latest. allow_missing, allow_extra: patterns of names
        (fnmatch), separated by commas. NotFoundError, CorruptError, VersionError, IOError; MismatchError:
        names the parameter and both shapes, or the name that is missing or too much."""
        self._collective("checkpoint_load", path, lambda: options_of(
            "load", weights_only=weights_only, keep_hyper=keep_hyper, allow_dtype_change=allow_dtype_change,
            allow_missing=allow_missing, allow_extra=allow_extra))
