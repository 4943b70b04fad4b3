"""What calls tell, as dataclasses."""

import ctypes
import dataclasses
from typing import Any, TypeVar

import numpy

from . import _structs

SKIP_REASONS = ("none", "nonfinite", "overflow", "norm", "error", "dropped")

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Group:
    """Hyper-parameters of one group, with AdamW's defaults; Adam with L2 where decoupled is False."""

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    decoupled_weight_decay: bool = True

    def struct(self) -> _structs.Group:
        return _structs.Group(ctypes.sizeof(_structs.Group), self.lr, self.beta1, self.beta2, self.eps,
                              self.weight_decay, self.decoupled_weight_decay)


@dataclasses.dataclass(frozen=True)
class Info:
    """What became of the last reduce_grads or step; times in milliseconds, on this rank."""

    count: int  #: updates done so far
    attempts: int  #: steps so far, skipped ones included
    grad_norm: float  #: before clipping; NaN where some gradient is not finite
    clip_coef: float  #: what clipping multiplied by; 1 where it did not
    skipped: bool
    skip_reason: str  #: of SKIP_REASONS
    nonfinite_numel: int
    bad_param: int  #: lowest parameter with a non-finite element; -1: none
    bad_rank: int  #: rank whose gradient holds it; -1: none, or the sum overflowed
    exchange_ms: float
    reduce_ms: float
    agree_ms: float
    update_ms: float
    gather_ms: float
    exposed_ms: float
    sent_bytes: int


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes that this rank has allocated, by purpose."""

    params_bytes: int
    grads_bytes: int
    grad_shard_bytes: int
    master_bytes: int
    exp_avg_bytes: int
    exp_avg_sq_bytes: int
    workspace_bytes: int
    total_bytes: int
    padding_bytes: int
    residual_bytes: int


@dataclasses.dataclass(frozen=True)
class Owned:
    """A range of one parameter that this rank owns, and its state: read-only views of [end - begin]
    float32, valid until the next step. The three are None where they are memory of a GPU."""

    param: int
    begin: int
    end: int
    master_param: numpy.ndarray | None = dataclasses.field(repr=False)
    exp_avg: numpy.ndarray | None = dataclasses.field(repr=False)
    exp_avg_sq: numpy.ndarray | None = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class SaveReport:
    """What the last save that has ended cost on this rank; times in milliseconds."""

    count: int  #: updates in it
    bytes: int  #: written by this rank
    snapshot_bytes: int  #: memory that the copy took; 0: pinned, or not asynchronous
    call_ms: float
    copy_ms: float
    write_ms: float
    hash_ms: float
    stall_ms: float
    commit_ms: float


def from_struct(kind: type[Result], struct: ctypes.Structure, **others: Any) -> Result:
    """A dataclass of the fields of the same names; `others` in place of the struct's."""
    values = {field.name: others[field.name] if field.name in others else getattr(struct, field.name)
              for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**values)


def info_of(struct: _structs.Info) -> Info:
    return from_struct(Info, struct, skipped=bool(struct.skipped),
                       skip_reason=SKIP_REASONS[struct.skip_reason])


def group_of(struct: _structs.Group) -> Group:
    return from_struct(Group, struct, decoupled_weight_decay=bool(struct.decoupled_weight_decay))
