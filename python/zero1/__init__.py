"""zero1: an optimizer whose state is sharded over data-parallel ranks, over NumPy arrays.

Optimizer holds parameters and gradients, Comm says who the ranks are, zero1.checkpoint reads what was saved.
Every status of the library is an exception: zero1.MismatchError is ZERO1_ERR_MISMATCH, and so on; all are
zero1.Error."""

from . import checkpoint
from .comm import Comm, nccl_unique_id
from .dtypes import bf16_to_float32, float32_to_bf16
from .errors import (AbortedError, CommError, CorruptError, DeviceError, DivergedError, Error, InvalidError,
                     IOError, LockedError, MemoryError, MismatchError, NoDeviceError, NotFoundError, PeerError,
                     SpentError, StateError, TimeoutError, UnsupportedError, VersionError)
from .optimizer import Optimizer
from .params import FROZEN, NOT_IN_NORM, Param
from .results import Group, Info, Memory, Owned, SaveReport

# Those whose names Python has already are not among what `import *` brings.
__all__ = ["FROZEN", "NOT_IN_NORM", "AbortedError", "Comm", "CommError", "CorruptError", "DeviceError",
           "DivergedError", "Error", "Group", "Info", "InvalidError", "LockedError", "Memory", "MismatchError",
           "NoDeviceError", "NotFoundError", "Optimizer", "Owned", "Param", "PeerError", "SaveReport",
           "SpentError", "StateError", "UnsupportedError", "VersionError", "bf16_to_float32", "checkpoint",
           "float32_to_bf16", "nccl_unique_id"]
