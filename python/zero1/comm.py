"""Communicators: how the data-parallel ranks reach each other."""

import ctypes
from collections.abc import Callable
from typing import Any

from . import _mpi
from ._arguments import checked
from ._handle import ClosedHandle, Handle, failure, guarded
from ._library import ALLGATHER, library, options_of, text_of
from .errors import InvalidError

_ERROR_BYTES = 4096


def _create(name: str, *arguments: Any, count: int = 1, ranks_per_node: int = 0, ordered: bool = False,
            workspace_bytes: int = 0, timeout_seconds: float = 600) -> list["Comm"]:
    """zero1_NAME(arguments..., options, comms [count])."""
    text = ctypes.create_string_buffer(_ERROR_BYTES)
    options = options_of("comm", ranks_per_node=ranks_per_node, ordered=ordered, workspace_bytes=workspace_bytes,
                         timeout_seconds=timeout_seconds, error_text=ctypes.addressof(text),
                         error_bytes=_ERROR_BYTES)
    comms = (ctypes.c_void_p * max(count, 1))()
    status = getattr(library(), "zero1_" + name)(*arguments, ctypes.byref(options), comms)
    if status:
        raise failure(status, text.value)
    return [Comm(Handle("comm", pointer)) for pointer in comms if pointer]


def _gatherer(world_size: int, allgather: Callable[[bytes], list[bytes]], problems: list[BaseException]) -> Any:
    """An all-gather of bytes objects as the library calls it."""
    def call(_context: Any, given: int, out: int, count: int) -> int:
        gathered = b"".join(allgather(ctypes.string_at(given, count)))
        if len(gathered) != world_size * count:
            raise InvalidError(f"allgather returned {len(gathered)} bytes, not {world_size} times {count}")
        ctypes.memmove(out, gathered, len(gathered))
        return 0
    return ALLGATHER(guarded(call, problems))


def _introduced(name: str, rank: int, world_size: int, allgather: Callable[[bytes], list[bytes]],
                options: Any) -> "Comm":
    problems: list[BaseException] = []
    try:
        return _create(name, rank, world_size, _gatherer(world_size, allgather, problems), None, **options)[0]
    except Exception as error:
        if problems:
            raise error from problems[0]
        raise


class Comm:
    """The ranks that share an optimizer's state. Made by the class methods, all but `self` and `threads`
    collective; one may serve several optimizers. One thread at a time uses it.

    Options of every class method: ranks_per_node (0: the machine is asked), ordered (NCCL's sums in rank
    order), workspace_bytes (of receive buffers; 0: 16 MiB), timeout_seconds (600).

    It is freed by `close`, by `with`, or when nothing uses it any more; optimizers keep theirs."""

    def __init__(self, handle: Handle):
        self._handle = handle

    @classmethod
    def self(cls, **options: Any) -> "Comm":
        """One rank, this process."""
        return _create("comm_create_self", **options)[0]

    @classmethod
    def threads(cls, world_size: int, **options: Any) -> list["Comm"]:
        """`world_size` ranks as threads of this process: [r] goes to the thread that is to be rank r."""
        return _create("comm_create_threads", world_size,
                       count=checked(ctypes.c_int32, "world_size", world_size), **options)

    @classmethod
    def world(cls, **options: Any) -> "Comm":
        """All ranks of mpirun. Starts MPI where the program has not (and ends it with the program), so
        that mpi4py is not needed. UnsupportedError: libzero1 was built without MPI."""
        return cls.from_mpi_handle(_mpi.start(), **options)

    @classmethod
    def from_mpi4py(cls, comm: Any, **options: Any) -> "Comm":
        """The ranks of an mpi4py communicator, which is duplicated.
        MismatchError: mpi4py is built on another MPI than libzero1; both are named."""
        from mpi4py import MPI  # only where the caller has it

        _mpi.check_mpi4py(MPI)
        return cls.from_mpi_handle(comm.py2f(), **options)

    @classmethod
    def from_mpi_handle(cls, mpi_comm_f: int, **options: Any) -> "Comm":
        """The ranks of an MPI communicator of libzero1's MPI, as Fortran's integer."""
        return _create("comm_create_mpi", mpi_comm_f, **options)[0]

    @classmethod
    def from_allgather(cls, rank: int, world_size: int, allgather: Callable[[bytes], list[bytes]],
                       **options: Any) -> "Comm":
        """Processes of one machine, without MPI. `allgather(data)` returns every rank's bytes, all of
        one length, in rank order; it is called while this call lasts. What it raises is the cause of
        the CommError."""
        return _introduced("comm_create_node", rank, world_size, allgather, options)

    @classmethod
    def from_nccl(cls, nccl_comm: int, **options: Any) -> "Comm":
        """The ranks of an ncclComm_t, given as its address, which is duplicated."""
        return _create("comm_create_nccl", nccl_comm, **options)[0]

    @classmethod
    def from_nccl_mpi_handle(cls, mpi_comm_f: int, **options: Any) -> "Comm":
        """The ranks of an MPI communicator, each with its GPU, over NCCL."""
        return _create("comm_create_nccl_mpi", mpi_comm_f, **options)[0]

    @classmethod
    def from_nccl_allgather(cls, rank: int, world_size: int, allgather: Callable[[bytes], list[bytes]],
                            **options: Any) -> "Comm":
        """As from_allgather, over NCCL, on one machine or several."""
        return _introduced("comm_create_nccl_allgather", rank, world_size, allgather, options)

    @classmethod
    def from_nccl_id(cls, rank: int, world_size: int, unique_id: bytes, **options: Any) -> "Comm":
        """Ranks that know the same id, which one of them made with nccl_unique_id."""
        if not isinstance(unique_id, bytes):
            raise InvalidError(f"unique_id is a {type(unique_id).__name__}, not bytes")
        return _create("comm_create_nccl_id", rank, world_size, unique_id, len(unique_id), **options)[0]

    @property
    def rank(self) -> int:
        return int(library().zero1_comm_rank(self._handle.pointer))

    @property
    def world_size(self) -> int:
        return int(library().zero1_comm_world_size(self._handle.pointer))

    @property
    def ranks_per_node(self) -> int:
        """Number of ranks that share memory with this one, itself included."""
        return int(library().zero1_comm_ranks_per_node(self._handle.pointer))

    @property
    def backend(self) -> str:
        """"self", "threads", "node", "exchange", "hierarchical" or "nccl"."""
        return text_of(library().zero1_comm_backend(self._handle.pointer))

    @property
    def note(self) -> str:
        """What it had to do in another way than it was asked to, and why; or ""."""
        return text_of(library().zero1_comm_note(self._handle.pointer))

    def barrier(self) -> None:
        """Waits until every rank has called it. Collective. PeerError, TimeoutError, CommError."""
        self._handle.call("comm_barrier")

    def close(self) -> None:
        """No call works afterwards; it is freed once its optimizers are. Twice is fine."""
        self._handle.closed = True
        self._handle = ClosedHandle("communicator")

    def __enter__(self) -> "Comm":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._handle.closed:
            return "<zero1.Comm closed>"
        return f"<zero1.Comm rank {self.rank} of {self.world_size}, {self.backend}>"


def nccl_unique_id() -> bytes:
    """An id for Comm.from_nccl_id. UnsupportedError: there is no NCCL. CommError: it failed."""
    made = ctypes.create_string_buffer(128)
    status = library().zero1_nccl_unique_id(made, len(made))
    if status:
        raise failure(status, None)
    return made.raw


def require(comm: object) -> Handle:
    """The handle of what must be a Comm."""
    if not isinstance(comm, Comm):
        raise InvalidError(f"comm is a {type(comm).__name__}, not a zero1.Comm")
    return comm._handle
