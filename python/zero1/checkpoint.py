"""Checkpoints without an optimizer and without MPI: what they hold, and their export.

    with zero1.checkpoint.open("checkpoints") as saved:      # a checkpoint, or a root's latest
        weight = saved["weight"]                              # float32, read and verified now
        moment = saved.read("weight", "exp_avg", begin=0, end=1000)
        saved.export("model.safetensors")                     # for other programs
"""

import ctypes
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy

from . import _structs
from ._arguments import checked
from ._handle import ClosedHandle, Handle, failure, guarded
from ._library import PROGRESS, library, options_of, text_of
from .dtypes import DTYPES, TYPESTR, dtype_name, number_of
from .errors import InvalidError
from .params import Param
from .results import Group, group_of

STATES = {"param": 0, "master_param": 1, "exp_avg": 2, "exp_avg_sq": 3, "residual": 4}
_TEXT_BYTES = 8192

#: Called with bytes done and bytes in all; True stops.
Progress = Callable[[int, int], bool | None]


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
        self.param_dtype = dtype_name(info.param_dtype)
        self.format_version, self.has_residual = info.format_version, bool(info.has_residual)
        self.bytes = info.bytes  #: of all files
        self.grad_scale, self.max_grad_norm = info.grad_scale, info.max_grad_norm
        self.skip_grad_norm = info.skip_grad_norm
        self.params = [self._param(index) for index in range(info.param_count)]  #: as registered
        self._index = {param.name: index for index, param in enumerate(self.params)}
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
        found = library().zero1_checkpoint_value(self._handle.pointer, rank, key)
        return None if found is None else text_of(found)

    def read(self, name: str, state: str = "param", *, begin: int | None = None, end: int | None = None,
             rank: int = 0, dtype: str | None = None, out: numpy.ndarray | None = None) -> numpy.ndarray:
        """A state of a parameter, verified as it is read; any thread may.

        [state]       "param", "master_param", "exp_avg", "exp_avg_sq", or "residual" of one `rank`
        [begin, end]  elements of the flat tensor; neither: all, in its shape
        [dtype]       "fp32" or "bf16" (uint16 of its bits); None: of a param as it was saved, else fp32
        [out]         a contiguous array of that data type and number of elements, which is returned
        InvalidError: no such parameter, state or range, or another `out`. CorruptError: names the file."""
        index = self._index[name] if name in self._index else self.find(name)
        param = self.params[index]
        shape = param.shape
        if begin is not None or end is not None:
            begin = checked(ctypes.c_int64, "begin", 0 if begin is None else begin)
            end = checked(ctypes.c_int64, "end", param.numel if end is None else end)
            if not 0 <= begin <= end <= param.numel:
                raise InvalidError(f"{name!r}: there are no elements [{begin}, {end}): it has {param.numel}")
            shape = (end - begin,)
        numel = param.numel if begin is None or end is None else end - begin
        number = number_of(DTYPES, dtype or (self.param_dtype if state == "param" else "fp32"), "dtype")
        if out is None:
            out = numpy.empty(shape, TYPESTR[number])
        elif (out.dtype.str != TYPESTR[number] or out.size != numel or not out.flags.c_contiguous
              or not out.flags.writeable):
            raise InvalidError(f"{name!r}: out is not {numel} contiguous, writable elements of "
                               f"{numpy.dtype(TYPESTR[number])}: {out.dtype} {list(out.shape)}")
        self._handle.call("checkpoint_read", index, number_of(STATES, state, "state"), rank, begin or 0,
                          (begin or 0) + numel, number, out.ctypes.data)
        return out

    def find(self, name: str) -> int:
        """Index of a parameter. InvalidError: there is none of that name."""
        index = ctypes.c_int64()
        self._handle.call("checkpoint_find", name, ctypes.byref(index))
        return index.value

    def verify(self, threads: int = 1, progress: Progress | None = None) -> None:
        """Reads every byte and compares every checksum. [progress] called with bytes read and in all now and
        then; True stops it: AbortedError. CorruptError: names the first file that is damaged."""
        self._with_progress(progress, lambda call: self._handle.call("checkpoint_verify", threads, call, None))

    def export(self, path: str | os.PathLike[str], state: str = "param", *, rank: int = 0,
               dtype: str | None = None, max_bytes: int = 0, force: bool = False,
               progress: Progress | None = None) -> int:
        """Writes a state of every parameter that has it as safetensors, with their names and shapes: what
        `read` gives, verified, in a few MiB of memory. All is written under other names, flushed, and only
        then put in place. Returns the number of files, without the index.

        [path]       one that ends in .safetensors is a file; any other a folder, made where its parent is
                     there, which gets model.safetensors, or, beyond max_bytes,
                     model-00001-of-0000N.safetensors and model.safetensors.index.json; of moments
                     exp_avg.safetensors and so on, side by side
        [state]      as of read; "master_param" is what fp32 has of bf16 parameters in all its bits
        [dtype]      "fp32" or "bf16"; None: of a param as it was in training, else fp32
        [max_bytes]  of the tensors in a file; a larger one has a file to itself. 0: 5 GB in a folder
        [force]      replaces an earlier export of the state
        [progress]   as of verify, of the bytes of tensors
        InvalidError: no such state, rank or dtype. IOError: names the file: it is there without force, or
        writing failed. UnsupportedError: one file is named and several are needed. CorruptError: names the
        file of the checkpoint. AbortedError: progress stopped it. Nothing is left of an export that failed."""
        options = options_of("export", state=number_of(STATES, state, "state"), rank=rank, force=force,
                             dtype=-1 if dtype is None else number_of(DTYPES, dtype, "dtype"), max_bytes=max_bytes)
        count = ctypes.c_int64()
        self._with_progress(progress, lambda call: self._handle.call(
            "checkpoint_export", path, ctypes.byref(options), call, None, ctypes.byref(count), None))
        return count.value

    def _with_progress(self, progress: Progress | None, run: Callable[[Any], None]) -> None:
        """run(a function for C that calls `progress`); raises what that raised. Python looks for signals in
        it, so that control-C ends a long run."""
        problems: list[BaseException] = []

        def call(_context: Any, done: int, total: int) -> int:
            return int(bool(progress(done, total))) if progress else 0

        try:
            run(PROGRESS(guarded(call, problems)))
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
        return name in self._index

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self.params)

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open(path: str | os.PathLike[str]) -> Reader:
    """Opens a checkpoint, or a root's latest. NotFoundError, CorruptError, VersionError, IOError."""
    handle, text = ctypes.c_void_p(), ctypes.create_string_buffer(_TEXT_BYTES)
    status = library().zero1_checkpoint_open(path, ctypes.byref(handle), text, _TEXT_BYTES)
    if status:
        raise failure(status, text.value)
    assert handle.value is not None
    return Reader(Handle("checkpoint", handle.value))


def latest(root: str | os.PathLike[str]) -> str:
    """The folder of the newest checkpoint of a root. NotFoundError: no root, or nothing in it."""
    path, text = ctypes.create_string_buffer(_TEXT_BYTES), ctypes.create_string_buffer(_TEXT_BYTES)
    status = library().zero1_checkpoint_latest(root, path, _TEXT_BYTES, text, _TEXT_BYTES)
    if status:
        raise failure(status, text.value)
    return os.fsdecode(path.value)
