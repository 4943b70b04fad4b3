"""MPI, without mpi4py: the library that libzero1 is linked with, found through it.

dlsym on a handle looks at the library and at what it is linked with, so the functions here are those that
libzero1 itself calls, whatever other MPI is installed. They take integers and pointers alone: a communicator
is its Fortran integer, which is how libzero1 takes it."""

import ctypes
import weakref
from typing import Any

from ._library import library
from .errors import CommError, MismatchError, StateError, UnsupportedError

_THREAD_MULTIPLE = 3  # in Open MPI, MPICH and all that share MPICH's ABI

#: MPI_COMM_WORLD in mpif.h. Open MPI is told by a symbol that is in its ABI, the others by their texts.
_WORLD_OPEN_MPI, _WORLD_MPICH = 0, 0x44000000
_MPICH_ABI = ("MPICH", "Intel(R) MPI", "MVAPICH")

_state: dict[str, Any] = {"finalizer": None, "left": False}


class _World:
    """Lives as long as the interpreter."""


_WORLD = _World()


def leave_running() -> None:
    """The end of the program leaves MPI_Finalize out."""
    _state["left"] = True


def mpi_function(name: str) -> Any:
    try:
        return getattr(library(), name)
    except AttributeError:
        raise UnsupportedError("this libzero1 was built without MPI") from None


def version_text() -> str:
    """What the MPI library says that it is. UnsupportedError: libzero1 has none."""
    text, length = ctypes.create_string_buffer(8192), ctypes.c_int()  # MPI_MAX_LIBRARY_VERSION_STRING
    mpi_function("MPI_Get_library_version")(text, ctypes.byref(length))
    return text.value.decode("utf-8", "replace").strip()


def _flag(name: str) -> bool:
    flag = ctypes.c_int()
    mpi_function(name)(ctypes.byref(flag))
    return bool(flag.value)


def world_handle() -> int:
    """MPI_COMM_WORLD as Fortran's integer."""
    text = version_text()
    if hasattr(library(), "ompi_mpi_comm_world"):
        return _WORLD_OPEN_MPI
    if text.startswith(_MPICH_ABI):
        return _WORLD_MPICH
    raise UnsupportedError(f"Comm.world() does not know this MPI; start it with mpi4py: {text}")


def is_started() -> bool:
    """Whether the program runs MPI. UnsupportedError: libzero1 has none."""
    return _flag("MPI_Initialized") and not _flag("MPI_Finalized")


def _finalize() -> None:
    if not _state["left"] and not _flag("MPI_Finalized"):
        mpi_function("MPI_Finalize")()


def start() -> int:
    """Starts MPI where the program has not, to be ended with the interpreter, after all handles. Returns
    MPI_COMM_WORLD as Fortran's integer. StateError: MPI was finalised."""
    handle = world_handle()
    if _flag("MPI_Finalized"):
        raise StateError("MPI is finalised")
    if not _flag("MPI_Initialized"):
        provided = ctypes.c_int()
        # Open MPI's modules look for its symbols in the whole program.
        ctypes.CDLL(library()._name, mode=ctypes.RTLD_GLOBAL)
        if mpi_function("MPI_Init_thread")(None, None, _THREAD_MULTIPLE, ctypes.byref(provided)):
            raise CommError("MPI_Init_thread failed")
        # Finalizers run in reverse order of creation: this one after those of all handles.
        _state["finalizer"] = weakref.finalize(_WORLD, _finalize)
    return handle


def check_mpi4py(module: Any) -> None:
    """[module] mpi4py.MPI. MismatchError: it is built on another MPI, and both are named."""
    ours, theirs = version_text(), module.Get_library_version().rstrip("\0").strip()
    if ours != theirs:
        raise MismatchError(f"mpi4py uses another MPI than libzero1: mpi4py {theirs!r}, libzero1 {ours!r}")
    if module.Is_initialized() and not _flag("MPI_Initialized"):
        raise MismatchError(f"mpi4py and libzero1 use two copies of the same MPI: mpi4py's is started, "
                            f"libzero1's is not: {ours!r}")
