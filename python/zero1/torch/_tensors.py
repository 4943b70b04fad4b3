"""Parameters of a model as the library registers them, and its memory as tensors."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from .._handle import view
from ..errors import InvalidError
from ..optimizer import Optimizer, handle_of
from ..params import FROZEN, Param

NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
_AS_INTEGER = {torch.float32: "<f4", torch.bfloat16: "<i2"}


@dataclasses.dataclass(frozen=True)
class Registered:
    """A parameter, under the name and in the group that the library knows it by."""

    tensor: torch.nn.Parameter
    name: str
    group: int

    def param(self) -> Param:
        return Param(self.name, tuple(self.tensor.shape), self.group, 0 if self.tensor.requires_grad else FROZEN)


def first_device(params: Iterable[Any]) -> torch.device:
    """Where the first tensor among what a torch.optim.Optimizer takes lies; the host where none is found."""
    for item in params:
        inner = item.get("params", ()) if isinstance(item, dict) else item[1:] if isinstance(item, tuple) else item
        found = inner if isinstance(inner, torch.Tensor) else None
        if isinstance(inner, (list, tuple)):
            found = next((part if isinstance(part, torch.Tensor) else part[1] for part in inner
                          if isinstance(part, (torch.Tensor, tuple))), None)
        if isinstance(found, torch.Tensor):
            return found.device
    return torch.device("cpu")


def _named(param_groups: Sequence[dict[str, Any]]) -> Iterator[Registered]:
    count = 0
    for number, group in enumerate(param_groups):
        names = group.get("param_names")
        for place, tensor in enumerate(group["params"]):
            yield Registered(tensor, names[place] if names else f"param.{count}", number)
            count += 1


def _in_order_of(module: torch.nn.Module, registered: list[Registered]) -> list[Registered]:
    """Under the names and in the order of the module. InvalidError: names one that it has not."""
    places = {id(tensor): (place, name) for place, (name, tensor) in enumerate(module.named_parameters())}
    for entry in registered:
        if id(entry.tensor) not in places:
            raise InvalidError(f"parameter {entry.name!r} {list(entry.tensor.shape)} is none of the module's")
    named = [dataclasses.replace(entry, name=places[id(entry.tensor)][1]) for entry in registered]
    return sorted(named, key=lambda entry: places[id(entry.tensor)][0])


def _check(entry: Registered, first: Registered) -> None:
    tensor, what = entry.tensor, f"parameter {entry.name!r}"
    if tensor.layout != torch.strided or tensor.dtype not in NAMES:
        raise InvalidError(f"{what} is {tensor.layout} {tensor.dtype}, not strided float32 or bfloat16")
    if tensor.device.type not in ("cpu", "cuda"):
        raise InvalidError(f"{what} is on {tensor.device}, neither on the host nor on a GPU of CUDA")
    if tensor.dtype != first.tensor.dtype:
        raise InvalidError(f"{what} is {tensor.dtype}, and {first.name!r} is {first.tensor.dtype}: an optimizer "
                           "takes one data type; make one for each")
    if tensor.device != first.tensor.device:
        raise InvalidError(f"{what} is on {tensor.device}, and {first.name!r} is on {first.tensor.device}")
    if not tensor.is_contiguous():
        raise InvalidError(f"{what} is not contiguous: sizes {list(tensor.shape)}, strides {tensor.stride()}")


def _check_apart(registered: list[Registered]) -> None:
    """Each moves into memory of its own: two that share some would no longer."""
    spans = sorted((entry.tensor.data_ptr(), entry.tensor.nbytes, entry.name) for entry in registered
                   if entry.tensor.numel())
    for (begin, length, name), (next_begin, _, next_name) in zip(spans, spans[1:]):
        if begin + length > next_begin:
            raise InvalidError(f"parameters {name!r} and {next_name!r} share memory; a tied one is given once, as "
                               "one torch.nn.Parameter")


def register(param_groups: Sequence[dict[str, Any]], module: torch.nn.Module | None) -> list[Registered]:
    """In the order in which forward uses them. InvalidError: names the parameter and what is wrong with it."""
    registered = list(_named(param_groups))
    if not registered:
        raise InvalidError("the optimizer was given no parameters")
    if module is not None:
        registered = _in_order_of(module, registered)
    for entry in registered:
        _check(entry, registered[0])
    _check_apart(registered)
    return registered


class _OnGpu:
    """What torch asks for where memory of a GPU is; it holds the optimizer."""

    def __init__(self, core: Optimizer, address: int, shape: tuple[int, ...], typestr: str):
        self.handle = handle_of(core)
        self.__cuda_array_interface__ = {"data": (address, False), "shape": shape, "typestr": typestr, "version": 3}


def view_of(core: Optimizer, address: int, like: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The library's memory at `address` as a tensor of like's shape and device, without a copy. It holds the
    library's optimizer."""
    if not like.numel():
        return torch.empty(like.shape, dtype=dtype, device=like.device)
    if like.device.type == "cuda":
        memory = _OnGpu(core, address, tuple(like.shape), _AS_INTEGER[dtype])
        return torch.as_tensor(memory, device=like.device).view(dtype)
    return torch.from_numpy(view(handle_of(core), address, tuple(like.shape), _AS_INTEGER[dtype])).view(dtype)
