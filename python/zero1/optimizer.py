"""The optimizer: AdamW whose state is sharded over the ranks of a communicator."""

import ctypes
import dataclasses
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy

from . import _structs
from ._create import create
from ._handle import ClosedHandle, Handle, view
from ._library import STREAM_DEFAULT, library
from ._saving import Checkpoints
from .checkpoint import STATES
from .comm import Comm
from .dtypes import DTYPES, TYPESTR, as_stored, number_of
from .errors import DivergedError, InvalidError, UnsupportedError
from .params import Param, Tensors
from .results import Group, Info, Memory, Owned, from_struct, group_of, info_of


def _stream(stream: int | None) -> int:
    return STREAM_DEFAULT if stream is None else stream


class Optimizer(Checkpoints):
    """Parameters and gradients in the library's buffers, and the steps over them.

        with zero1.Optimizer({"weight": weight, "bias": bias}, comm=comm, lr=1e-3) as opt:
            for step in range(100):
                opt.wait_params()
                opt.grads["weight"][...], opt.grads["bias"][...] = gradients(opt.params)
                opt.grads_ready()
                opt.step()

    [params]  in the order in which forward uses them: a mapping of names to arrays or shapes, or a list of
              (name, array or shape[, group[, flags]]) or of Param. Values of arrays, float32 (for bf16 also
              uint16 of its bits, or ml_dtypes.bfloat16), become the initial ones: rank 0's on every rank.
              Where there are shapes alone, write params[...] on rank 0 and call sync_params(0).
    [comm]    a Comm, or None: this process alone
    [groups]  of Group; or one group of lr, beta1, beta2, eps, weight_decay, decoupled_weight_decay
    [config]  the fields of zero1_config by their names: param_dtype and grad_dtype "fp32" or "bf16",
              bucket_numel, max_grad_norm, share_params, threads, device "host" or "cuda",
              grad_wire_dtype "memory", "fp32", "bf16" or "int8", agree_comm (a Comm) and so on

    Collective: either every rank has one, or all raise. MismatchError: names the first difference of
    parameters or configuration. InvalidError: names the field or parameter.

    Calls follow zero1/zero1.h, where their rules are. Errors of an asynchronous step come with the next call
    that waits. `with` closes it, and aborts it where the block raised, so that the peers raise, too."""

    def __init__(self, params: Iterable[Any] | Mapping[str, Any], *, comm: Comm | None = None,
                 groups: Sequence[Group] | None = None, **config: Any):
        comm = comm or Comm.self()
        self._params, self._handle = create(comm, params, groups, config)
        self.rank, self.world_size = comm.rank, comm.world_size
        self._on_host = config.get("device", "host") == "host"
        self._dtype = DTYPES[config.get("param_dtype", "fp32")]
        self._grad_dtype = DTYPES[config.get("grad_dtype", "fp32")]
        try:
            self._tensors = [self._make_tensors(self.param_pointer, self._dtype),
                             self._make_tensors(self.grad_pointer, self._grad_dtype)] if self._on_host else []
            self._set_initial()
        except BaseException as problem:
            self.abort(str(problem))
            self.close()
            raise

    def _make_tensors(self, pointer: Any, dtype: int) -> Tensors:
        arrays = []
        for index, param in enumerate(self._params):
            address = pointer(index)
            missing = pointer == self.grad_pointer and param.frozen
            arrays.append(None if missing else view(self._handle, address, param.shape, TYPESTR[dtype]))
        return Tensors(self._params, arrays)

    def _set_initial(self) -> None:
        if all(param.value is None for param in self._params):
            return
        if self.rank == 0:
            for index, param in enumerate(self._params):
                if param.value is not None:
                    self.params[index][...] = as_stored(param.value, self._dtype, f"parameter {param.name!r}")
        self._params = [dataclasses.replace(param, value=None) for param in self._params]
        self.sync_params(0)

    # ---- its life ----

    @property
    def closed(self) -> bool:
        return self._handle.closed

    def close(self) -> None:
        """No call works afterwards. Its memory is freed once no view of it is used any more. Every rank
        closes; a peer that still waits for this one gets PeerError. Not collective. Twice is fine."""
        if not self._handle.closed:
            self._handle.closed = True
            self._tensors = []
            self._handle = ClosedHandle("optimizer")

    def abort(self, reason: str = "") -> None:
        """This rank cannot go on: peers that wait for it, now or later, raise AbortedError with `reason`.
        The optimizer is spent. Not collective."""
        library().zero1_optimizer_abort(self._handle.pointer,
                                        reason.encode("utf-8", "replace").replace(b"\0", b"?"))

    def __enter__(self) -> "Optimizer":
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, _: object) -> None:
        if kind and not self.closed:
            self.abort(f"{kind.__name__}: {problem}")
        self.close()

    # ---- the tensors ----

    @property
    def params(self) -> Tensors:
        """[i] or [name]: the parameter, a view of its shape; float32, or uint16 for bf16. Of the host."""
        return self._of_host(0)

    @property
    def grads(self) -> Tensors:
        """[i] or [name]: the gradient, a view of its parameter's shape; float32, or uint16 for bf16. None
        for a frozen parameter. Of the host."""
        return self._of_host(1)

    def _of_host(self, which: int) -> Tensors:
        self._handle.pointer  # raises where it is closed
        if not self._on_host:
            raise UnsupportedError("NumPy has no view of a GPU's memory: param_pointer and grad_pointer")
        return self._tensors[which]

    @property
    def registered(self) -> list[Param]:
        """The parameters as they were given, without their values."""
        return list(self._params)

    def __len__(self) -> int:
        return int(library().zero1_optimizer_param_count(self._handle.pointer))

    def find(self, name: str) -> int:
        """Index of a parameter. InvalidError: there is none of that name."""
        index = ctypes.c_int64()
        self._handle.call("optimizer_find", name, ctypes.byref(index))
        return index.value

    def _address(self, call: str, index: int) -> int:
        address = ctypes.c_void_p()
        self._handle.call(call, index, ctypes.byref(address))
        return address.value or 0

    def param_pointer(self, index: int) -> int:
        """Address of the parameter, on the device of the config; constant until close."""
        return self._address("optimizer_param", index)

    def grad_pointer(self, index: int) -> int:
        """Address of the gradient; 0 for a frozen parameter."""
        return self._address("optimizer_grad", index)

    def residual(self, index: int) -> numpy.ndarray | None:
        """What 8-bit gradients have left over on this rank: a float32 view of the parameter's shape, or
        None where gradients do not travel so. Waits for the last step."""
        address = self._address("optimizer_residual", index)
        return view(self._handle, address, self._params[index].shape) if address else None

    def sync_params(self, root: int = 0) -> None:
        """Gives every rank the root's parameters and sets the masters to them. Collective; waits."""
        self._handle.call("optimizer_sync_params", root)

    def params_changed(self) -> None:
        """After parameters were written, the same on every rank: masters follow. Collective; waits."""
        self._handle.call("optimizer_params_changed")

    # ---- one step ----

    def wait_param(self, index: int, stream: int | None = None) -> None:
        """Until the parameter has its value of the last step. [stream] a cudaStream_t, or the config's."""
        self._handle.call("optimizer_wait_param", index, _stream(stream))

    def wait_params(self, stream: int | None = None) -> None:
        """wait_param and wait_grad of all."""
        self._handle.call("optimizer_wait_params", _stream(stream))

    def wait_grad(self, index: int, stream: int | None = None) -> None:
        """Until no peer reads the gradient of the last step any more."""
        self._handle.call("optimizer_wait_grad", index, _stream(stream))

    def zero_grad(self, stream: int | None = None) -> None:
        """Sets every gradient to zero; waits as wait_grad."""
        self._handle.call("optimizer_zero_grad", _stream(stream))

    def set_grad(self, index: int, address: int, stream: int | None = None) -> None:
        """Copies the gradient from memory of the config's device: [numel] of grad_dtype, contiguous. Waits as
        wait_grad. On the host faster than to write `grads`, by one thread: past the caches."""
        self._handle.call("optimizer_set_grad", index, address, _stream(stream))

    def grad_ready(self, index: int, stream: int | None = None) -> None:
        """The gradient is complete: nothing writes it until the next wait_grad."""
        self._handle.call("optimizer_grad_ready", index, _stream(stream))

    def grad_absent(self, index: int, stream: int | None = None) -> None:
        """The parameter got no gradient on this rank in this step."""
        self._handle.call("optimizer_grad_absent", index, _stream(stream))

    def grads_ready(self, stream: int | None = None) -> None:
        """grad_ready of every trainable parameter, from the last one, as backward finishes them."""
        for index in reversed(range(len(self._params))):
            if not self._params[index].frozen:
                self.grad_ready(index, stream)

    def reduce_grads(self) -> None:
        """The first half of step, for who wants info before step or drop_grads. Collective."""
        self._handle.call("optimizer_reduce_grads")

    def step(self) -> None:
        """Updates this rank's shard and gives every rank the new parameters. Collective; asynchronous."""
        self._handle.call("optimizer_step")

    def replay(self, stream: int | None = None) -> None:
        """Before each launch of a CUDA graph that holds a step. Collective; asynchronous."""
        self._handle.call("optimizer_replay", _stream(stream))

    def drop_grads(self) -> None:
        """Gives up the gradients since the last step, without an update. Collective; waits."""
        self._handle.call("optimizer_drop_grads")

    def info(self) -> Info:
        """Waits for the last reduce_grads or step and tells what became of it; raises its error."""
        info = _structs.Info()
        self._handle.call("optimizer_info", ctypes.byref(info), ctypes.sizeof(info))
        return info_of(info)

    # ---- hyper-parameters: the same on every rank, in effect from the next step ----

    def set_lr(self, lr: float, group: int = 0) -> None:
        self._handle.call("optimizer_set_lr", group, lr)

    def set_group(self, values: Group, group: int = 0) -> None:
        struct = values.struct()
        self._handle.call("optimizer_set_group", group, ctypes.byref(struct), ctypes.sizeof(struct))

    def get_group(self, group: int = 0) -> Group:
        struct = _structs.Group()
        self._handle.call("optimizer_get_group", group, ctypes.byref(struct), ctypes.sizeof(struct))
        return group_of(struct)

    def set_grad_scale(self, grad_scale: float) -> None:
        """The sum over ranks is multiplied by it; above 0."""
        self._handle.call("optimizer_set_grad_scale", grad_scale)

    def set_max_grad_norm(self, max_grad_norm: float) -> None:
        """0 turns clipping off."""
        self._handle.call("optimizer_set_max_grad_norm", max_grad_norm)

    def set_skip_grad_norm(self, skip_grad_norm: float) -> None:
        """A step whose grad_norm is above is skipped; 0 turns that off."""
        self._handle.call("optimizer_set_skip_grad_norm", skip_grad_norm)

    # ---- what a rank owns, and what it costs ----

    def owned(self) -> list[Owned]:
        """The ranges that this rank owns, in order of memory: all ranks' tile all trainable parameters.
        Waits for the last step."""
        count = ctypes.c_int64()
        self._handle.call("optimizer_owned_count", ctypes.byref(count))
        structs = (_structs.Owned * max(count.value, 1))()
        self._handle.call("optimizer_owned", 0, count.value, structs, ctypes.sizeof(_structs.Owned))
        return [self._owned(struct) for struct in structs[:count.value]]

    def _owned(self, struct: _structs.Owned) -> Owned:
        names = ("master_param", "exp_avg", "exp_avg_sq")
        state = {name: view(self._handle, getattr(struct, name), [struct.end - struct.begin], writable=False)
                 if struct.on_host else None for name in names}
        return from_struct(Owned, struct, **state)

    def set_state(self, index: int, state: str, values: numpy.ndarray) -> None:
        """Sets a state to what comes from elsewhere; each rank keeps the part that it owns.
        [state] "master_param" (set before params_changed), "exp_avg" or "exp_avg_sq"
        [values] float32 of the parameter's shape, the same on every rank. Waits; not collective."""
        values = numpy.ascontiguousarray(values)
        param = self._param(index)
        if param and (values.dtype != numpy.float32 or values.size != param.numel):
            raise InvalidError(f"parameter {param.name!r}: {state} is {values.dtype} {list(values.shape)}, not "
                               f"float32 {list(param.shape)}")
        self._handle.call("optimizer_set_state", index, number_of(STATES, state, "state"), values.ctypes.data)

    def _param(self, index: int) -> Param | None:
        """None: there is no such parameter, which the library tells, on every rank where that is due."""
        try:
            return self._params[index] if 0 <= operator.index(index) < len(self._params) else None
        except TypeError:
            return None

    def get_state(self, index: int, state: str, wanted: bool = True) -> numpy.ndarray | None:
        """A state as a whole, float32 of the parameter's shape; None where it is not `wanted` on this rank.
        [state] "master_param", "exp_avg" or "exp_avg_sq". Collective; waits."""
        param = self._param(index)
        values = numpy.empty(param.shape, numpy.float32) if wanted and param else None
        address = None if values is None else values.ctypes.data
        if state not in STATES:
            self._handle.meet("optimizer_get_state", -1, -1, None)
        self._handle.call("optimizer_get_state", index, number_of(STATES, state, "state"), address)
        return values

    def set_count(self, count: int) -> None:
        """Sets the number of updates done so far. Collective; waits."""
        self._handle.call("optimizer_set_count", count)

    def memory(self) -> Memory:
        struct = _structs.Memory()
        self._handle.call("optimizer_memory", ctypes.byref(struct), ctypes.sizeof(struct))
        return from_struct(Memory, struct)

    def check_replicas(self) -> None:
        """DivergedError, on every rank: the parameters differ; its `rank` is one that differs from the
        most. Collective; waits."""
        rank = ctypes.c_int32(-1)
        try:
            self._handle.call("optimizer_check_replicas", ctypes.byref(rank))
        except DivergedError as error:
            error.rank = rank.value
            raise


def handle_of(optimizer: Optimizer) -> Handle:
    """What a view of the optimizer's memory holds."""
    return optimizer._handle
