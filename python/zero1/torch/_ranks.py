"""Which ranks share the state, where the program does not say: as they were launched."""

import os

import torch
import torch.distributed

from .. import _mpi
from ..comm import Comm
from ..errors import Error, StateError, UnsupportedError

_LAUNCHED_BY_MPI = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK", "MV2_COMM_WORLD_SIZE")


def _of_process_group(group: torch.distributed.ProcessGroup | None, on_gpu: bool) -> Comm:
    """The ranks of a process group, introduced by its all-gather. On the host: of one machine."""
    rank, world_size = torch.distributed.get_rank(group), torch.distributed.get_world_size(group)

    def allgather(data: bytes) -> list[bytes]:
        gathered: list[bytes] = [b""] * world_size
        torch.distributed.all_gather_object(gathered, data, group)
        return gathered

    if rank < 0:
        raise StateError("this process is not in process_group")
    if on_gpu:
        return Comm.from_nccl_allgather(rank, world_size, allgather)
    try:
        return Comm.from_allgather(rank, world_size, allgather)
    except UnsupportedError as error:
        raise UnsupportedError(f"{error}. On several machines without GPUs run the program with mpirun and leave "
                               "torch.distributed out, or give comm=zero1.Comm.from_mpi4py(MPI.COMM_WORLD)") from None


def _mpi_is_there() -> bool:
    if any(name in os.environ for name in _LAUNCHED_BY_MPI):
        return True
    try:
        return _mpi.is_started()
    except Error:  # this library has no MPI
        return False


def find(group: torch.distributed.ProcessGroup | None, on_gpu: bool) -> Comm:
    """The ranks of torch.distributed where that is started, else those of mpirun, else this process alone.
    Collective. StateError: launched by torchrun, and torch.distributed is not started."""
    if group is not None or (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return _of_process_group(group, on_gpu)
    if _mpi_is_there():
        return Comm.from_nccl_mpi_handle(_mpi.start()) if on_gpu else Comm.world()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise StateError(f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, and torch.distributed is not started: call "
                         "torch.distributed.init_process_group before the optimizer is made")
    return Comm.self()
