"""Finds libzero1.so, loads it once, and knows the arguments of its calls. ctypes releases the GIL in each.
Arguments that the caller of the package gives are checked (_arguments.py); handles and memory are our own.

It is looked for as ZERO1_LIBRARY says, else beside this package, else in the build folder of the checkout
that the package is part of, else where the system keeps libraries."""

import ctypes
import functools
import os
import pathlib
from ctypes import POINTER, c_char_p, c_double, c_int32, c_int64, c_size_t, c_uint32, c_void_p
from typing import Any

from . import _structs
from ._arguments import Argument, checking
from .errors import UnsupportedError, VersionError

#: ZERO1_VERSION of the headers that this package speaks.
VERSION = 100

STREAM_DEFAULT = ctypes.c_void_p(-1).value or 0  #: ZERO1_STREAM_DEFAULT

ALLGATHER = ctypes.CFUNCTYPE(c_int32, c_void_p, c_void_p, c_void_p, c_size_t)
PROGRESS = ctypes.CFUNCTYPE(c_int32, c_void_p, ctypes.c_uint64, ctypes.c_uint64)

_OUT = POINTER(c_void_p)
_I64_OUT = POINTER(c_int64)
_OPTIONS = POINTER(_structs.CommOptions)
_STREAM = Argument(c_void_p, "stream")
_TEXT_OUT = [c_void_p, c_size_t]


def _int32(name: str) -> Argument:
    return Argument(c_int32, name)


def _int64(name: str) -> Argument:
    return Argument(c_int64, name)


def _double(name: str) -> Argument:
    return Argument(c_double, name)


def _text(name: str) -> Argument:
    return Argument(c_char_p, name)


def _struct_calls() -> dict[str, list[Any]]:
    """Calls that take a handle, perhaps numbers, and a struct with its size."""
    sized = {"comm_options_init": "comm_options", "config_init": "config", "group_init": "group",
             "save_options_init": "save_options", "load_options_init": "load_options",
             "export_options_init": "export_options"}
    calls = {name: [POINTER(_structs.BY_NAME["zero1_" + struct]), c_size_t]
             for name, struct in sized.items()}
    for name, struct in {"optimizer_info": "info", "optimizer_memory": "memory",
                         "checkpoint_report": "save_report", "checkpoint_get_info": "checkpoint_info"}.items():
        calls[name] = [c_void_p, POINTER(_structs.BY_NAME["zero1_" + struct]), c_size_t]
    for name, struct, what in (("optimizer_set_group", "group", "group"), ("optimizer_get_group", "group", "group"),
                               ("checkpoint_group", "group", "index"), ("checkpoint_param", "param_spec", "index")):
        calls[name] = [c_void_p, _int64(what), POINTER(_structs.BY_NAME["zero1_" + struct]), c_size_t]
    return calls


#: Arguments of the calls that return a status, by name without "zero1_".
STATUS_CALLS: dict[str, list[Any]] = _struct_calls() | {
    "comm_create_self": [_OPTIONS, _OUT],
    "comm_create_threads": [_int32("world_size"), _OPTIONS, _OUT],
    "comm_create_node": [_int32("rank"), _int32("world_size"), ALLGATHER, c_void_p, _OPTIONS, _OUT],
    "comm_create_mpi": [_int32("mpi_comm_f"), _OPTIONS, _OUT],
    "comm_create_nccl": [Argument(c_void_p, "nccl_comm"), _OPTIONS, _OUT],
    "comm_create_nccl_mpi": [_int32("mpi_comm_f"), _OPTIONS, _OUT],
    "comm_create_nccl_allgather": [_int32("rank"), _int32("world_size"), ALLGATHER, c_void_p, _OPTIONS, _OUT],
    "comm_create_nccl_id": [_int32("rank"), _int32("world_size"), c_void_p, c_size_t, _OPTIONS, _OUT],
    "nccl_unique_id": [c_void_p, c_size_t],
    "comm_barrier": [c_void_p],
    "optimizer_create": [c_void_p, POINTER(_structs.Config), POINTER(_structs.ParamSpec), c_size_t, c_int64,
                         _OUT],
    "optimizer_find": [c_void_p, _text("name"), _I64_OUT],
    "optimizer_param": [c_void_p, _int64("index"), _OUT],
    "optimizer_grad": [c_void_p, _int64("index"), _OUT],
    "optimizer_residual": [c_void_p, _int64("index"), _OUT],
    "optimizer_sync_params": [c_void_p, Argument(c_int32, "root", refused=-1)],
    "optimizer_params_changed": [c_void_p],
    "optimizer_wait_param": [c_void_p, _int64("index"), _STREAM],
    "optimizer_wait_params": [c_void_p, _STREAM],
    "optimizer_wait_grad": [c_void_p, _int64("index"), _STREAM],
    "optimizer_zero_grad": [c_void_p, _STREAM],
    "optimizer_set_grad": [c_void_p, _int64("index"), Argument(c_void_p, "values"), _STREAM],
    "optimizer_grad_ready": [c_void_p, _int64("index"), _STREAM],
    "optimizer_grad_absent": [c_void_p, _int64("index"), _STREAM],
    "optimizer_reduce_grads": [c_void_p],
    "optimizer_step": [c_void_p],
    "optimizer_replay": [c_void_p, _STREAM],
    "optimizer_drop_grads": [c_void_p],
    "optimizer_set_lr": [c_void_p, _int64("group"), _double("lr")],
    "optimizer_set_grad_scale": [c_void_p, _double("grad_scale")],
    "optimizer_set_max_grad_norm": [c_void_p, _double("max_grad_norm")],
    "optimizer_set_skip_grad_norm": [c_void_p, _double("skip_grad_norm")],
    "optimizer_owned_count": [c_void_p, _I64_OUT],
    "optimizer_owned": [c_void_p, c_int64, c_int64, POINTER(_structs.Owned), c_size_t],
    "optimizer_set_state": [c_void_p, _int64("index"), _int32("state"), c_void_p],
    "optimizer_get_state": [c_void_p, Argument(c_int64, "index", refused=-1),
                            Argument(c_int32, "state", refused=-1), c_void_p],
    "optimizer_set_count": [c_void_p, Argument(c_int64, "count", refused=-1)],
    "optimizer_check_replicas": [c_void_p, POINTER(c_int32)],
    "checkpoint_save": [c_void_p, Argument(c_char_p, "root", refused=None), POINTER(_structs.SaveOptions)],
    "checkpoint_save_async": [c_void_p, Argument(c_char_p, "root", refused=None), POINTER(_structs.SaveOptions)],
    "checkpoint_wait": [c_void_p],
    "checkpoint_poll": [c_void_p, POINTER(c_int32)],
    "checkpoint_load": [c_void_p, Argument(c_char_p, "dir", refused=None), POINTER(_structs.LoadOptions)],
    "checkpoint_latest": [_text("root"), *_TEXT_OUT, *_TEXT_OUT],
    "checkpoint_open": [_text("dir"), _OUT, *_TEXT_OUT],
    "checkpoint_find": [c_void_p, _text("name"), _I64_OUT],
    "checkpoint_metadata": [c_void_p, _int32("rank"), _int64("index"), POINTER(_structs.Pair)],
    "checkpoint_file": [c_void_p, _int64("index"), POINTER(c_char_p), POINTER(ctypes.c_uint64)],
    "checkpoint_read": [c_void_p, _int64("param"), _int32("state"), _int32("rank"), _int64("begin"),
                        _int64("end"), _int32("dtype"), c_void_p],
    "checkpoint_verify": [c_void_p, _int32("threads"), PROGRESS, c_void_p],
    "checkpoint_export": [c_void_p, _text("out"), POINTER(_structs.ExportOptions), PROGRESS, c_void_p, _I64_OUT,
                          POINTER(ctypes.c_uint64)],
}

#: The other calls: what they return, and their arguments.
OTHER_CALLS: dict[str, tuple[Any, list[Any]]] = {
    "version": (c_uint32, []),
    "status_string": (c_char_p, [_int32("status")]),
    "comm_rank": (c_int32, [c_void_p]),
    "comm_world_size": (c_int32, [c_void_p]),
    "comm_ranks_per_node": (c_int32, [c_void_p]),
    "comm_backend": (c_char_p, [c_void_p]),
    "comm_note": (c_char_p, [c_void_p]),
    "comm_last_error": (c_char_p, [c_void_p]),
    "comm_destroy": (None, [_OUT]),
    "optimizer_destroy": (None, [_OUT]),
    "optimizer_last_error": (c_char_p, [c_void_p]),
    "optimizer_param_count": (c_int64, [c_void_p]),
    "optimizer_abort": (None, [c_void_p, _text("reason")]),
    "checkpoint_close": (None, [_OUT]),
    "checkpoint_last_error": (c_char_p, [c_void_p]),
    "checkpoint_value": (c_char_p, [c_void_p, _int32("rank"), _text("key")]),
}


def kind_of(argument: Any) -> Any:
    """The type of ctypes of what is listed above."""
    return argument.kind if isinstance(argument, Argument) else argument


def candidates() -> list[str]:
    """Where the library is looked for, in this order."""
    if os.environ.get("ZERO1_LIBRARY"):
        return [os.environ["ZERO1_LIBRARY"]]
    here = pathlib.Path(__file__).resolve().parent
    found = [here / "libzero1.so"]
    if (here.parents[1] / "include" / "zero1" / "zero1.h").exists():
        found.append(here.parents[1] / "build" / "libzero1.so")
    return [*(str(path) for path in found if path.exists()), "libzero1.so.0"]


def load(path: str) -> ctypes.CDLL:
    """The library at `path`, with its calls declared. VersionError: of another version."""
    loaded = ctypes.CDLL(path)
    calls = {name: (c_int32, arguments) for name, arguments in STATUS_CALLS.items()} | OTHER_CALLS
    for name, (result, arguments) in calls.items():
        call = getattr(loaded, "zero1_" + name)
        call.restype, call.argtypes = result, [kind_of(argument) for argument in arguments]
        setattr(loaded, "zero1_" + name, checking(call, arguments))
    version = loaded.zero1_version()
    if version // 100 != VERSION // 100:
        raise VersionError(f"{path} is of version {version}; this package is for {VERSION}")
    return loaded


@functools.cache
def library() -> ctypes.CDLL:
    """The library. UnsupportedError: none was found, or it cannot be loaded: the text says why."""
    problems = []
    for path in candidates():
        try:
            return load(path)
        except (OSError, AttributeError) as problem:
            problems.append(str(problem))
    raise UnsupportedError("libzero1.so cannot be loaded; ZERO1_LIBRARY may say where it is: "
                           + "; ".join(problems))


def options_of(kind: str, **values: Any) -> Any:
    """zero1_KIND_options with these values, and defaults for the others. InvalidError: names a value."""
    options = _structs.BY_NAME[f"zero1_{kind}_options"]()
    getattr(library(), f"zero1_{kind}_options_init")(ctypes.byref(options), ctypes.sizeof(options))
    for name, value in values.items():
        setattr(options, name, value)
    return options


@functools.cache
def function(name: str) -> Any:
    """zero1_NAME of the library. A call that is made for every gradient finds it at once."""
    return getattr(library(), "zero1_" + name)


def text_of(raw: bytes | None) -> str:
    return (raw or b"").decode("utf-8", "replace")
