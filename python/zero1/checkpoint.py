"""Checkpoints: what an optimizer saves and loads, and what is read without one.

    with zero1.checkpoint.open("checkpoints") as saved:      # a checkpoint, or a root's latest
        weight = saved["weight"]                              # float32, read and verified now
        moment = saved.read("weight", "exp_avg", begin=0, end=1000)
"""

import ctypes
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy

from . import _structs
from ._handle import ClosedHandle, Handle, failure, guarded
from ._library import PROGRESS, library, text_of
from .dtypes import DTYPES, TYPESTR, number_of
from .errors import InvalidError
from .params import Param
from .results import Group, SaveReport, from_struct, group_of

STATES = {"param": 0, "master_param": 1, "exp_avg": 2, "exp_avg_sq": 3, "residual": 4}
MODES = {"pinned": 0, "snapshot": 1}
_TEXT_BYTES = 8192


def _pairs_of(pairs: Mapping[str, str] | None) -> tuple[Any, int]:
    """The C array of a mapping, and its length."""
    pairs = pairs or {}
    made = (_structs.Pair * max(len(pairs), 1))()
    for pair, (key, value) in zip(made, pairs.items()):
        if not isinstance(key, str) or not isinstance(value, str) or "\0" in key + value:
            raise InvalidError(f"metadata {key!r}: key and value are texts, not {value!r:.100}")
        pair.key, pair.value = key.encode(), value.encode()
    return made, len(pairs)


class Checkpoints:
    """The part of Optimizer that saves and loads."""

    _handle: Handle

    def _save(self, call: str, root: str | os.PathLike[str], metadata: Mapping[str, str] | None,
              rank_metadata: Mapping[str, str] | None, **others: int) -> None:
        options = _structs.SaveOptions()
        library().zero1_save_options_init(ctypes.byref(options), ctypes.sizeof(options))
        options.metadata, options.metadata_count = _pairs_of(metadata)
        options.rank_metadata, options.rank_metadata_count = _pairs_of(rank_metadata)
        for name, value in others.items():
            setattr(options, name, value)
        self._handle.call(call, os.fsencode(root), ctypes.byref(options))

    def save(self, root: str | os.PathLike[str], *, keep_last: int = 0, keep_every: int = 0,
             metadata: Mapping[str, str] | None = None, rank_metadata: Mapping[str, str] | None = None,
             no_lock: bool = False) -> None:
        """Writes ROOT/step-<updates> and waits until it is safe. Collective; between steps.

        keep_last, keep_every: older ones go but the newest keep_last and those whose step is a multiple of
        keep_every; 0 and 0: all stay. metadata: of the run, the same on every rank; rank_metadata: of this
        rank. IOError: names the file. LockedError: another job writes there. InvalidError, StateError,
        MismatchError; the failure of an earlier save_async."""
        self._save("checkpoint_save", root, metadata, rank_metadata, keep_last=keep_last,
                   keep_every=keep_every, no_lock=no_lock)

    def save_async(self, root: str | os.PathLike[str], *, mode: str = "pinned", keep_last: int = 0,
                   keep_every: int = 0, metadata: Mapping[str, str] | None = None,
                   rank_metadata: Mapping[str, str] | None = None, no_lock: bool = False) -> None:
        """The same, written while training goes on. [mode] "pinned": the next update waits for the writer,
        bucket by bucket; "snapshot": state is copied first, and no update waits. Errors of the writing come
        with the next wait, poll, save or save_async."""
        self._save("checkpoint_save_async", root, metadata, rank_metadata, keep_last=keep_last,
                   keep_every=keep_every, no_lock=no_lock, mode=number_of(MODES, mode, "mode"))

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
        options = _structs.LoadOptions()
        library().zero1_load_options_init(ctypes.byref(options), ctypes.sizeof(options))
        options.weights_only, options.keep_hyper = weights_only, keep_hyper
        options.allow_dtype_change = allow_dtype_change
        options.allow_missing = allow_missing.encode() if allow_missing is not None else None
        options.allow_extra = allow_extra.encode() if allow_extra is not None else None
        self._handle.call("checkpoint_load", os.fsencode(path), ctypes.byref(options))


class Reader(Mapping[str, numpy.ndarray]):
    """A checkpoint without an optimizer and without MPI: a mapping of names to parameters, each read when
    it is asked for. Made by zero1.checkpoint.open."""

    def __init__(self, handle: Handle):
        self._handle = handle
        info = _structs.CheckpointInfo()
        handle.call("checkpoint_get_info", ctypes.byref(info), ctypes.sizeof(info))
        self.path = os.fsdecode(info.path)  #: its folder
        self.count, self.attempts = info.count, info.attempts  #: updates; steps, skipped ones included
        self.world_size = info.world_size  #: ranks that saved it
        self.param_dtype = "bf16" if info.param_dtype == DTYPES["bf16"] else "fp32"
        self.format_version, self.has_residual = info.format_version, bool(info.has_residual)
        self.bytes = info.bytes  #: of all files
        self.grad_scale, self.max_grad_norm = info.grad_scale, info.max_grad_norm
        self.skip_grad_norm = info.skip_grad_norm
        self.params = [self._param(index) for index in range(info.param_count)]  #: as registered
        self.groups = [self._group(index) for index in range(info.group_count)]
        self.metadata = {pair[0]: pair[1] for pair in map(self._pair, range(info.metadata_count))}  #: of the run
        self.files = dict(map(self._file, range(info.file_count)))  #: bytes of each, by name in the folder

    def _param(self, index: int) -> Param:
        spec = _structs.ParamSpec()
        self._handle.call("checkpoint_param", index, ctypes.byref(spec), ctypes.sizeof(spec))
        return Param(spec.name.decode(), tuple(spec.shape[:spec.ndim]), spec.group, spec.flags)

    def _group(self, index: int) -> Group:
        struct = _structs.Group()
        self._handle.call("checkpoint_group", index, ctypes.byref(struct), ctypes.sizeof(struct))
        return group_of(struct)

    def _pair(self, index: int) -> tuple[str, str]:
        pair = _structs.Pair()
        self._handle.call("checkpoint_metadata", -1, index, ctypes.byref(pair))
        return text_of(pair.key), text_of(pair.value)

    def _file(self, index: int) -> tuple[str, int]:
        name, count = ctypes.c_char_p(), ctypes.c_uint64()
        self._handle.call("checkpoint_file", index, ctypes.byref(name), ctypes.byref(count))
        return text_of(name.value), count.value

    def value(self, key: str, rank: int = -1) -> str | None:
        """The text of a key of rank_metadata of `rank`, or of the run's (-1); None: there is none."""
        found = library().zero1_checkpoint_value(self._handle.pointer, rank, key.encode())
        return None if found is None else text_of(found)

    def read(self, name: str, state: str = "param", *, begin: int | None = None, end: int | None = None,
             rank: int = 0, dtype: str | None = None, out: numpy.ndarray | None = None) -> numpy.ndarray:
        """A state of a parameter, verified as it is read; any thread may.

        [state]       "param", "master_param", "exp_avg", "exp_avg_sq", or "residual" of one `rank`
        [begin, end]  elements of the flat tensor; neither: all, in its shape
        [dtype]       "fp32" or "bf16" (uint16 of its bits); None: of a param as it was saved, else fp32
        [out]         a contiguous array of that data type and number of elements, which is returned
        InvalidError: no such parameter, state or range, or another `out`. CorruptError: names the file."""
        index = self.find(name)
        shape = self.params[index].shape
        if begin is not None or end is not None:
            begin = begin or 0
            end = self.params[index].numel if end is None else end
            shape = (max(end - begin, 0),)
        else:
            begin, end = 0, self.params[index].numel
        stored = self.param_dtype if state == "param" else "fp32"
        number = number_of(DTYPES, dtype or stored, "dtype")
        if out is None:
            out = numpy.empty(shape, TYPESTR[number])
        elif (out.dtype.str != TYPESTR[number] or out.size != max(end - begin, 0)
              or not out.flags.c_contiguous or not out.flags.writeable):
            raise InvalidError(f"{name!r}: out is not {end - begin} contiguous, writable elements of "
                               f"{numpy.dtype(TYPESTR[number])}: {out.dtype} {list(out.shape)}")
        self._handle.call("checkpoint_read", index, number_of(STATES, state, "state"), rank, begin, end, number,
                          out.ctypes.data)
        return out

    def find(self, name: str) -> int:
        """Index of a parameter. InvalidError: there is none of that name."""
        index = ctypes.c_int64()
        self._handle.call("checkpoint_find", name.encode(), ctypes.byref(index))
        return index.value

    def verify(self, threads: int = 1, progress: Callable[[int, int], bool | None] | None = None) -> None:
        """Reads every byte and compares every checksum. [progress] called with bytes read and in all now and
        then; True stops it: AbortedError. CorruptError: names the first file that is damaged."""
        problems: list[BaseException] = []

        def call(_context: Any, done: int, total: int) -> int:
            return int(bool(progress(done, total))) if progress else 0

        try:
            self._handle.call("checkpoint_verify", threads, PROGRESS(guarded(call, problems)), None)
        except Exception as error:
            if problems:
                raise problems[0] from None
            raise error

    def close(self) -> None:
        """No call works afterwards. Twice is fine."""
        self._handle.closed = True
        self._handle = ClosedHandle("checkpoint")

    def __getitem__(self, name: str) -> numpy.ndarray:
        if name not in self:
            raise KeyError(name)
        return self.read(name)

    def __contains__(self, name: object) -> bool:
        return any(param.name == name for param in self.params)

    def __iter__(self) -> Iterator[str]:
        return iter([param.name for param in self.params])

    def __len__(self) -> int:
        return len(self.params)

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open(path: str | os.PathLike[str]) -> Reader:
    """Opens a checkpoint, or a root's latest. NotFoundError, CorruptError, VersionError, IOError."""
    handle, text = ctypes.c_void_p(), ctypes.create_string_buffer(_TEXT_BYTES)
    status = library().zero1_checkpoint_open(os.fsencode(path), ctypes.byref(handle), text, _TEXT_BYTES)
    if status:
        raise failure(status, text.value)
    assert handle.value is not None
    return Reader(Handle("checkpoint", handle.value))


def latest(root: str | os.PathLike[str]) -> str:
    """The folder of the newest checkpoint of a root. NotFoundError: no root, or nothing in it."""
    path, text = ctypes.create_string_buffer(_TEXT_BYTES), ctypes.create_string_buffer(_TEXT_BYTES)
    status = library().zero1_checkpoint_latest(os.fsencode(root), path, _TEXT_BYTES, text, _TEXT_BYTES)
    if status:
        raise failure(status, text.value)
    return os.fsdecode(path.value)
