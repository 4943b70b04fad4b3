"""Parameters as they are registered, and the arrays of them."""

import ctypes
import dataclasses
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy

from . import _structs
from ._arguments import checked
from .errors import InvalidError

FROZEN = 1  #: has a value and no gradient, no state: never updated
NOT_IN_NORM = 2  #: its gradient is left out of grad_norm (a duplicate, for example)


@dataclasses.dataclass(frozen=True)
class Param:
    """One parameter. Registered in the order in which forward uses them; a tied one is one."""

    name: str  #: unique, not empty
    shape: tuple[int, ...]  #: () is a scalar
    group: int = 0  #: index of its group
    flags: int = 0  #: FROZEN, NOT_IN_NORM
    value: numpy.ndarray | None = dataclasses.field(default=None, repr=False, compare=False)  #: initial

    @property
    def numel(self) -> int:
        return int(numpy.prod(self.shape, dtype=numpy.int64))

    @property
    def frozen(self) -> bool:
        return bool(self.flags & FROZEN)


def param_of(given: Any) -> Param:
    """A Param of itself or of (name, shape or array[, group[, flags]]). InvalidError: of anything else."""
    if isinstance(given, Param):
        return given
    if not isinstance(given, tuple) or not 2 <= len(given) <= 4 or not isinstance(given[0], str):
        raise InvalidError(f"a parameter is (name, shape or array[, group[, flags]]), not {given!r:.100}")
    name, what, *rest = given
    if isinstance(what, numpy.ndarray):
        return dataclasses.replace(Param(name, what.shape, *rest), value=what)
    try:
        return Param(name, tuple(operator.index(size) for size in what), *rest)
    except TypeError:
        raise InvalidError(f"parameter {name!r}: {what!r:.100} is neither a shape nor an array") from None


def params_of(given: Iterable[Any] | Mapping[str, Any]) -> list[Param]:
    """Of an iterable of what param_of takes, or of a mapping of names to shapes or arrays."""
    items = given.items() if isinstance(given, Mapping) else given
    return [param_of(item) for item in items]


def specs_of(params: Sequence[Param]) -> Any:
    """The C array of the parameters; it holds the memory that it points to."""
    specs = (_structs.ParamSpec * max(len(params), 1))()
    for spec, param in zip(specs, params):
        try:
            spec.name, spec.ndim, spec.group, spec.flags = param.name, len(param.shape), param.group, param.flags
            sizes = [checked(ctypes.c_int64, "a size", size) for size in param.shape]
        except InvalidError as error:
            raise InvalidError(f"parameter {param.name!r:.100}: its {error}") from None
        spec.shape = (ctypes.c_int64 * max(len(sizes), 1))(*sizes)
    return specs


class Tensors(Sequence[Any]):
    """The arrays of all parameters, or of all gradients, by index or by name. Setting one copies the values
    into the library's memory: of the same shape and data type."""

    def __init__(self, params: Sequence[Param], arrays: list[numpy.ndarray | None]):
        self._arrays = arrays
        self._index = {param.name: index for index, param in enumerate(params)}

    def _at(self, key: int | str) -> int:
        if isinstance(key, str):
            if key not in self._index:
                raise InvalidError(f"there is no parameter {key!r}")
            return self._index[key]
        return key

    def __getitem__(self, key: Any) -> Any:
        return self._arrays[key if isinstance(key, slice) else self._at(key)]

    def __setitem__(self, key: int | str, values: numpy.ndarray) -> None:
        array = self[key]
        if array is None:
            raise InvalidError(f"parameter {key!r} is frozen: it has no gradient")
        if array is values:  # of grads[i] += x
            return
        values = numpy.asarray(values)
        if values.shape != array.shape or values.dtype != array.dtype:
            raise InvalidError(f"parameter {key!r} takes {array.dtype} {list(array.shape)}, not "
                               f"{values.dtype} {list(values.shape)}")
        array[...] = values

    def __len__(self) -> int:
        return len(self._arrays)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._arrays)
