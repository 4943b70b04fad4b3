"""torch.optim.Optimizer over the library: AdamW whose state is sharded over data-parallel ranks."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from .._create import refuse
from ..comm import Comm
from ..errors import Error, InvalidError, StateError, UnsupportedError
from ..optimizer import Optimizer
from ..results import Info, Memory
from . import _adamw, _ranks
from ._abort import on_uncaught
from ._backward import Gradients
from ._forward import Waits
from ._hooks import weakly
from ._masters import follow
from ._saving import Saving
from ._tensors import NAMES, first_device, register, view_of


class DistributedOptimizer(Saving, torch.optim.Optimizer):
    """AdamW (or Adam, with decoupled_weight_decay=False) in place of DistributedDataParallel and torch.optim.AdamW.

        optimizer = zero1.torch.DistributedOptimizer(model.named_parameters(), lr=1e-3)
        for inputs, targets in batches:
            optimizer.zero_grad()
            loss_of(model(inputs), targets).backward()
            optimizer.step()

    Parameters and gradients move into the library's memory, of the host or of a GPU, and every rank gets rank 0's
    values. Gradients are averaged over the ranks, bucket by bucket while backward goes on. What is not a parameter
    (running statistics of BatchNorm, say) stays each rank's own.

    [params]    as of torch.optim.AdamW: of float32 or bfloat16 (then masters are float32), contiguous, on one device.
                Given as (name, parameter), or with `module`, checkpoints have these names. A parameter that does not
                require a gradient now is frozen: it has no state.
    [module]    the model: its names, and the order in which it has its parameters, which is to be that of forward.
                Without it they come as they are given; several groups then hold up the overlap.
    [comm]      a zero1.Comm. None: the ranks of `process_group` or of torch.distributed where that is started (the
                host of one machine; NCCL on GPUs), else those of mpirun, else this process alone.
    [overlap]   gradients are handed over as backward finishes them: then they are nobody's to write, nor to read
                (part of them may be sums over the ranks already), and further microbatches come inside no_sync.
                False: in step, and they are the program's until then.
    [overlap_forward]  step returns at once, and each parameter is waited for before its module's forward; needs
                `module`. Whoever reads parameters elsewhere (an average of weights, say) calls wait_params first.
                False: step waits, on a GPU its stream alone.
    [share_params]     the ranks of a machine have their parameters in one memory. Nobody else may write them then.
    [grad_dtype]       torch.float32: bfloat16 gradients are accumulated and summed in float32
    [max_grad_norm]    clips in every step, without a wait; 0: off
    [config]    other fields of zero1_config: bucket_numel, threads, grad_wire_dtype, skip_grad_norm, guard, ...

    Parameters without a gradient on any rank in a step are left alone. All share one count of updates.
    A step in which some gradient is not finite is skipped by every rank: info() tells.

    Collective; so are step, clip_grad_norm, params_changed, save, load, load_state_dict, consolidate_state_dict, and
    zero_grad where gradients are on their way. An error, or an exception that nothing catches, on one rank raises on
    all. InvalidError, MismatchError: name the parameter or argument, or the first difference between the ranks."""

    def __init__(self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.01, *, decoupled_weight_decay: bool = True,
                 module: torch.nn.Module | None = None, comm: Comm | None = None,
                 process_group: "torch.distributed.ProcessGroup | None" = None, overlap: bool = True,
                 overlap_forward: bool = False, share_params: bool = False, grad_dtype: torch.dtype | None = None,
                 max_grad_norm: float = 0.0, **config: Any):
        self._device = torch.device("cpu")
        self._max_grad_norm, self._share_params = max_grad_norm, share_params
        problem: Exception | None = None
        try:
            if isinstance(params, Iterable) and not isinstance(params, torch.Tensor):
                params = list(params)
                self._device = first_device(params)
            defaults = _adamw.values_of(_adamw.group_of(
                {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
                 "decoupled_weight_decay": decoupled_weight_decay}))
            super().__init__(params, defaults)
            self._registered = register(self.param_groups, module)
            self._device = self._registered[0].tensor.device
            self._given = [_adamw.group_of(group) for group in self.param_groups]  # as the library has them
            grad_dtype = grad_dtype or self._registered[0].tensor.dtype
            if overlap_forward and module is None:
                raise InvalidError("overlap_forward needs the module, before whose parts it waits")
            config |= self._config(grad_dtype, overlap)
        except Exception as error:  # the peers raise, too
            problem = error
        comm = comm or _ranks.find(process_group, self._device.type == "cuda")
        if problem:
            refuse(comm)
            raise problem
        assert grad_dtype is not None
        self._make(comm, config)
        try:
            self._adopt(module if overlap_forward else None, grad_dtype, overlap)
        except BaseException as error:
            self.core.abort(f"{type(error).__name__}: {error}")
            self.core.close()
            raise

    def _config(self, grad_dtype: torch.dtype, overlap: bool) -> dict[str, Any]:
        dtype = self._registered[0].tensor.dtype
        if grad_dtype not in (torch.float32, dtype):
            raise InvalidError(f"grad_dtype is {grad_dtype}, neither torch.float32 nor {dtype}")
        config = {"param_dtype": NAMES[dtype], "grad_dtype": NAMES[grad_dtype], "overlap": int(overlap),
                  "share_params": int(self._share_params), "max_grad_norm": float(self._max_grad_norm),
                  "device": self._device.type if self._device.type == "cuda" else "host"}
        if self._device.type == "cuda":
            config["device_index"] = self._device.index
        return config

    def _make(self, comm: Comm, config: dict[str, Any]) -> None:
        #: The library's optimizer, a zero1.Optimizer; parameters are in the order of registration.
        self.core = Optimizer([entry.param() for entry in self._registered], comm=comm, groups=self._given, **config)
        self.rank, self.world_size = self.core.rank, self.core.world_size
        places = {id(entry.tensor): index for index, entry in enumerate(self._registered)}
        #: Index in the library of each parameter, in the order of all groups.
        self._places = [places[id(tensor)] for group in self.param_groups for tensor in group["params"]]
        self._frozen = [entry for entry in self._registered if not entry.tensor.requires_grad]
        #: Whether what this rank writes to parameters and masters is no other rank's matter.
        self._owns_params = (config["device"] == "host" and not self._share_params
                             and config["param_dtype"] == "bf16")
        self._addresses = [0] * len(self._registered)
        self._versions = [0] * len(self._registered)
        #: Whether parameters have masters of more bits than their own.
        self._has_masters = "bf16" in (config["param_dtype"], config.get("param_wire_dtype"))
        self._reduced = self._clips = False
        self._written = False
        self._waits: Waits | None = None

    def _adopt(self, module: torch.nn.Module | None, grad_dtype: torch.dtype, overlap: bool) -> None:
        """The model's parameters become the library's memory, with rank 0's values."""
        views = [view_of(self.core, self.core.param_pointer(index), entry.tensor, entry.tensor.dtype)
                 for index, entry in enumerate(self._registered)]
        if self.rank == 0 or not self._share_params:
            for view, entry in zip(views, self._registered):
                view.copy_(entry.tensor.detach())
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.core.sync_params(0)
        for index, (view, entry) in enumerate(zip(views, self._registered)):
            entry.tensor.data = view
            self._addresses[index] = entry.tensor.data_ptr()
        self._note_versions()
        before_each = None if module is None else weakly(self._before_gradient)
        self._gradients = Gradients(self.core, self._registered, grad_dtype, overlap, weakly(self._stream),
                                    weakly(self._settle), before_each, weakly(self._abort_with))
        if module is not None:
            self._waits = Waits(self.core, module, self._registered, weakly(self._stream), weakly(self._abort_with))
        if self.world_size > 1:
            on_uncaught(self.core)

    def _stream(self) -> int | None:
        """The stream that torch works in, of a GPU."""
        return int(torch.cuda.current_stream(self._device).cuda_stream) if self._device.type == "cuda" else None

    def _abort_with(self, error: Error) -> Error:
        """This rank has found an error by itself, which its peers are told."""
        self.core.abort(str(error))
        return error

    # ---- parameters that the program writes ----

    def _note_versions(self) -> None:
        self._versions = [entry.tensor._version for entry in self._registered]

    def _settle(self) -> None:
        """What torch knows to be written goes into the masters: with the first gradient of a step, since it would be
        lost otherwise, and before they are saved. Collective on a GPU, and where parameters are shared or rounded on
        their way."""
        if not self._has_masters:
            return
        written = {index for index, entry in enumerate(self._registered)
                   if self._written or entry.tensor._version != self._versions[index]}
        if written and self._owns_params:
            self.wait_params()
            follow(self.core, self._registered, written)
            self._written = False
            self._note_versions()
        elif written:
            self.params_changed()

    def _before_gradient(self, index: int) -> None:
        if self._waits:
            self._waits.check_read(index)
            self.core.wait_grad(index, self._stream())

    def params_changed(self) -> None:
        """After parameters were written, the same on every rank (load_state_dict of the model, an average of weights
        swapped in): masters follow. Collective. What torch counts as a write in place is noticed without it."""
        self.wait_params()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.core.params_changed()
        self._written = False
        self._note_versions()

    def sync_params(self, root: int = 0) -> None:
        """Gives every rank the root's parameters. Collective."""
        self.wait_params()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.core.sync_params(root)
        self._note_versions()

    def wait_params(self) -> None:
        """Until all parameters have their values of the last step; on a GPU, in torch's current stream."""
        if self._waits:
            self._waits.wait_all()

    # ---- a step ----

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch.optim.Optimizer's. Gradients that are on their way are given up: collective then."""
        if self._gradients.handed_over:
            self.core.drop_grads()
            self._end_step()
        elif set_to_none:
            self._gradients.give_up()
        else:
            self._gradients.zero()
            super().zero_grad(set_to_none=False)

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Around the backward of every microbatch but the last: gradients are added up and stay here."""
        before, self._gradients.synchronizing = self._gradients.synchronizing, False
        try:
            yield
        finally:
            self._gradients.synchronizing = before

    def clip_grad_norm(self, max_norm: float, norm_type: float = 2.0,
                       error_if_nonfinite: bool = False) -> torch.Tensor:
        """Between backward and step, in place of torch.nn.utils.clip_grad_norm_: the step that follows scales the
        averaged gradients by max_norm / (norm + 1e-6) where that is below 1; an infinite max_norm scales nothing.
        Returns their norm, a scalar; waits for it (max_grad_norm of the constructor does not). Collective.
        InvalidError: max_norm is no number above 0; error_if_nonfinite, and the norm is not finite: zero_grad then
        gives the step up."""
        if float(norm_type) != 2.0:
            raise self._abort_with(UnsupportedError(f"norm_type is {norm_type}: there is 2 alone"))
        if self._reduced:
            raise self._abort_with(StateError("clip_grad_norm was called twice in a step"))
        if not max_norm > 0:
            raise self._abort_with(InvalidError(f"max_norm is {max_norm}, not above 0"))
        self.core.set_max_grad_norm(max_norm if max_norm < float("inf") else 0.0)
        self._clips = True
        self._set_groups()
        self._gradients.hand_over_rest()
        self.core.reduce_grads()
        self._reduced = True
        norm = self.core.info().grad_norm
        if error_if_nonfinite and not abs(norm) < float("inf"):
            raise InvalidError(f"the norm of the gradients is {norm}")  # on every rank: it is the same
        return torch.tensor(norm, dtype=torch.float32, device=self._device)

    def _set_groups(self) -> None:
        """What schedulers, or the program, have set in param_groups."""
        for number, values in enumerate(self.param_groups):
            try:
                group = _adamw.group_of(values)
                if group != self._given[number]:
                    self.core.set_group(group, number)
            except InvalidError as error:
                raise self._abort_with(error) from None
            self._given[number] = group

    def _end_step(self) -> None:
        """Gradients belong to it, whatever became of it, and so does what it clipped at."""
        if self._clips:
            self.core.set_max_grad_norm(self._max_grad_norm)
        self._reduced = self._clips = False
        self._gradients.give_up()

    def _check_places(self) -> None:
        for address, entry in zip(self._addresses, self._registered):
            if entry.tensor.data_ptr() != address:
                raise self._abort_with(StateError(f"parameter {entry.name!r} is not in the optimizer's memory any more "
                                              "(.to(), .data = ...): move and convert models before it is made"))
        for entry in self._frozen:
            if entry.tensor.grad is not None:
                raise self._abort_with(StateError(f"parameter {entry.name!r} has a gradient, and was frozen when the "
                                              "optimizer was made: make another, which may load its state"))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates the parameters and gives them to every rank. Gradients are gone afterwards (.grad is None).
        Collective. AbortedError, PeerError, TimeoutError, CommError: a peer is lost, and with it the optimizer."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._check_places()
        self._set_groups()
        self._gradients.hand_over_rest()
        self.core.step()
        self._end_step()
        if self._waits:
            self._waits.after_step()
        else:
            self.core.wait_params(self._stream())
        return loss

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """torch.amp.GradScaler asks before it steps. Its unscale_ writes gradients that are on their way, and torch
        does not count that as a write."""
        raise self._abort_with(UnsupportedError("torch.amp.GradScaler would write gradients that backward has handed "
                                            "over, and there are none of float16 to need it"))

    def info(self) -> Info:
        """What became of the last step: norm, skipped or not, times. Waits for it; raises its error."""
        return self.core.info()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if "core" in self.__dict__:
            raise UnsupportedError("parameters are fixed once the optimizer is made: give all groups to it")
        super().add_param_group(param_group)

    # ---- its life ----

    def memory(self) -> Memory:
        return self.core.memory()

    @property
    def closed(self) -> bool:
        return self.core.closed

    def close(self) -> None:
        """The model keeps its parameters, in memory of its own; no call of the optimizer works any more. Twice is
        fine. Not collective."""
        if self.core.closed:
            return
        if self._waits:
            self._waits.close()
        self._gradients.close()
        with contextlib.suppress(Error):
            self.core.wait_params(self._stream())
        for entry in self._registered:
            entry.tensor.data = entry.tensor.data.clone()
        self.core.close()

    def abort(self, reason: str = "") -> None:
        """This rank cannot go on: its peers raise AbortedError with `reason`."""
        self.core.abort(reason)

    def __enter__(self) -> "DistributedOptimizer":
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, _: object) -> None:
        if kind and not self.core.closed:
            self.core.abort(f"{kind.__name__}: {problem}")
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        raise UnsupportedError("a sharded optimizer cannot be pickled or copied: save() and load(), or state_dict()")
