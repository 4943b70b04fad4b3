"""Finds libzero1.so, loads it once, and knows the arguments of its calls. ctypes releases the GIL in each.

It is looked for as ZERO1_LIBRARY says, else beside this package, else in the build folder of the checkout
that the package is part of, else where the system keeps libraries."""

import ctypes
import functools
import os
import pathlib
from ctypes import POINTER, c_char_p, c_double, c_int32, c_int64, c_size_t, c_uint32, c_void_p
from typing import Any

from . import _structs
from .errors import UnsupportedError, VersionError

#: ZERO1_VERSION of the headers that this package speaks.
VERSION = 100

STREAM_DEFAULT = ctypes.c_void_p(-1)

ALLGATHER = ctypes.CFUNCTYPE(c_int32, c_void_p, c_void_p, c_void_p, c_size_t)
PROGRESS = ctypes.CFUNCTYPE(c_int32, c_void_p, ctypes.c_uint64, ctypes.c_uint64)

_OUT = POINTER(c_void_p)
_I64_OUT = POINTER(c_int64)
_OPTIONS = POINTER(_structs.CommOptions)


def _struct_calls() -> dict[str, list[Any]]:
    """Calls that take a handle, perhaps numbers, and a struct with its size."""
    sized = {"comm_options_init": "comm_options", "config_init": "config", "group_init": "group",
             "save_options_init": "save_options", "load_options_init": "load_options"}
    calls = {name: [POINTER(_structs.BY_NAME["zero1_" + struct]), c_size_t]
             for name, struct in sized.items()}
    for name, struct in {"optimizer_info": "info", "optimizer_memory": "memory",
                         "checkpoint_report": "save_report", "checkpoint_get_info": "checkpoint_info"}.items():
        calls[name] = [c_void_p, POINTER(_structs.BY_NAME["zero1_" + struct]), c_size_t]
    for name, struct in {"optimizer_set_group": "group", "optimizer_get_group": "group",
                         "checkpoint_group": "group", "checkpoint_param": "param_spec"}.items():
        calls[name] = [c_void_p, c_int64, POINTER(_structs.BY_NAME["zero1_" + struct]), c_size_t]
    return calls


#: Arguments of the calls that return a status, by name without "zero1_".
STATUS_CALLS: dict[str, list[Any]] = _struct_calls() | {
    "comm_create_self": [_OPTIONS, _OUT],
    "comm_create_threads": [c_int32, _OPTIONS, _OUT],
    "comm_create_node": [c_int32, c_int32, ALLGATHER, c_void_p, _OPTIONS, _OUT],
    "comm_create_mpi": [c_int32, _OPTIONS, _OUT],
    "comm_create_nccl": [c_void_p, _OPTIONS, _OUT],
    "comm_create_nccl_mpi": [c_int32, _OPTIONS, _OUT],
    "comm_create_nccl_allgather": [c_int32, c_int32, ALLGATHER, c_void_p, _OPTIONS, _OUT],
    "comm_create_nccl_id": [c_int32, c_int32, c_char_p, c_size_t, _OPTIONS, _OUT],
    "nccl_unique_id": [c_void_p, c_size_t],
    "comm_barrier": [c_void_p],
    "optimizer_create": [c_void_p, POINTER(_structs.Config), POINTER(_structs.ParamSpec), c_size_t, c_int64,
                         _OUT],
    "optimizer_find": [c_void_p, c_char_p, _I64_OUT],
    "optimizer_param": [c_void_p, c_int64, _OUT],
    "optimizer_grad": [c_void_p, c_int64, _OUT],
    "optimizer_residual": [c_void_p, c_int64, _OUT],
    "optimizer_sync_params": [c_void_p, c_int32],
    "optimizer_params_changed": [c_void_p],
    "optimizer_wait_param": [c_void_p, c_int64, c_void_p],
    "optimizer_wait_params": [c_void_p, c_void_p],
    "optimizer_wait_grad": [c_void_p, c_int64, c_void_p],
    "optimizer_zero_grad": [c_void_p, c_void_p],
    "optimizer_grad_ready": [c_void_p, c_int64, c_void_p],
    "optimizer_grad_absent": [c_void_p, c_int64, c_void_p],
    "optimizer_reduce_grads": [c_void_p],
    "optimizer_step": [c_void_p],
    "optimizer_replay": [c_void_p, c_void_p],
    "optimizer_drop_grads": [c_void_p],
    "optimizer_set_lr": [c_void_p, c_int64, c_double],
    "optimizer_set_grad_scale": [c_void_p, c_double],
    "optimizer_set_max_grad_norm": [c_void_p, c_double],
    "optimizer_set_skip_grad_norm": [c_void_p, c_double],
    "optimizer_owned_count": [c_void_p, _I64_OUT],
    "optimizer_owned": [c_void_p, c_int64, c_int64, POINTER(_structs.Owned), c_size_t],
    "optimizer_set_state": [c_void_p, c_int64, c_int32, c_void_p],
    "optimizer_get_state": [c_void_p, c_int64, c_int32, c_void_p],
    "optimizer_set_count": [c_void_p, c_int64],
    "optimizer_check_replicas": [c_void_p, POINTER(c_int32)],
    "checkpoint_save": [c_void_p, c_char_p, POINTER(_structs.SaveOptions)],
    "checkpoint_save_async": [c_void_p, c_char_p, POINTER(_structs.SaveOptions)],
    "checkpoint_wait": [c_void_p],
    "checkpoint_poll": [c_void_p, POINTER(c_int32)],
    "checkpoint_load": [c_void_p, c_char_p, POINTER(_structs.LoadOptions)],
    "checkpoint_latest": [c_char_p, c_char_p, c_size_t, c_char_p, c_size_t],
    "checkpoint_open": [c_char_p, _OUT, c_char_p, c_size_t],
    "checkpoint_find": [c_void_p, c_char_p, _I64_OUT],
    "checkpoint_metadata": [c_void_p, c_int32, c_int64, POINTER(_structs.Pair)],
    "checkpoint_file": [c_void_p, c_int64, POINTER(c_char_p), POINTER(ctypes.c_uint64)],
    "checkpoint_read": [c_void_p, c_int64, c_int32, c_int32, c_int64, c_int64, c_int32, c_void_p],
    "checkpoint_verify": [c_void_p, c_int32, PROGRESS, c_void_p],
}

#: The other calls: what they return, and their arguments.
OTHER_CALLS: dict[str, tuple[Any, list[Any]]] = {
    "version": (c_uint32, []),
    "status_string": (c_char_p, [c_int32]),
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
    "optimizer_abort": (None, [c_void_p, c_char_p]),
    "checkpoint_close": (None, [_OUT]),
    "checkpoint_last_error": (c_char_p, [c_void_p]),
    "checkpoint_value": (c_char_p, [c_void_p, c_int32, c_char_p]),
}


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
    for name, arguments in STATUS_CALLS.items():
        call = getattr(loaded, "zero1_" + name)
        call.restype, call.argtypes = c_int32, arguments
    for name, (result, arguments) in OTHER_CALLS.items():
        call = getattr(loaded, "zero1_" + name)
        call.restype, call.argtypes = result, arguments
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


def text_of(raw: bytes | None) -> str:
    return (raw or b"").decode("utf-8", "replace")
