"""What an optimizer is made of, and its making: ranks that fail on the way take the others with them."""

import ctypes
from collections.abc import Iterable, Sequence
from typing import Any

from . import _structs
from ._handle import Handle, failure
from ._library import library
from .comm import Comm, require
from .dtypes import DEVICES, DTYPES, WIRES, as_stored, number_of
from .errors import Error, InvalidError
from .params import Param, params_of, specs_of
from .results import Group

_CHOICES = {"param_dtype": DTYPES, "grad_dtype": DTYPES, "device": DEVICES, "grad_wire_dtype": WIRES,
            "param_wire_dtype": WIRES}
_NOT_GIVEN = {"size", "version", "groups", "group_bytes", "group_count", "reserved"}
_FIELDS = {field[0] for field in _structs.Config._fields_} - _NOT_GIVEN
_GROUP_FIELDS = set(Group.__dataclass_fields__)


def _groups_of(groups: Sequence[Group] | None, given: dict[str, Any]) -> list[Group]:
    if groups is None:
        return [Group(**given)]
    if given:
        raise InvalidError(f"{', '.join(sorted(given))} beside groups: each group has its own")
    for group in groups:
        if not isinstance(group, Group):
            raise InvalidError(f"groups holds a {type(group).__name__}, not a zero1.Group")
    return list(groups)


def config_of(groups: Sequence[Group] | None, given: dict[str, Any]) -> _structs.Config:
    """The struct of keyword arguments. InvalidError: names the one that is none, or its value."""
    unknown = sorted(set(given) - _FIELDS - _GROUP_FIELDS)
    if unknown:
        raise InvalidError(f"there is no argument {', '.join(unknown)}")
    config = _structs.Config()
    library().zero1_config_init(ctypes.byref(config), ctypes.sizeof(config))
    made = _groups_of(groups, {name: given[name] for name in _GROUP_FIELDS & set(given)})
    config.groups = (_structs.Group * max(len(made), 1))(*(group.struct() for group in made))
    config.group_bytes, config.group_count = ctypes.sizeof(_structs.Group), len(made)
    for name in _FIELDS & set(given):
        value = given[name]
        if name in _CHOICES:
            value = number_of(_CHOICES[name], value, name)
        elif name == "agree_comm" and value is not None:
            value = require(value).pointer
        setattr(config, name, value)
    return config


def _check_values(params: list[Param], config: _structs.Config) -> None:
    for param in params:
        if param.value is not None:
            if config.device != DEVICES["host"]:
                raise InvalidError(f"parameter {param.name!r}: initial values go to a host's memory alone")
            as_stored(param.value, config.param_dtype, f"parameter {param.name!r}")


def refuse(comm: Comm) -> None:
    """In place of create, on a rank that has found an error of its own: meets the others, all of which raise."""
    handle, refused, made = require(comm), _structs.Config(), ctypes.c_void_p()
    library().zero1_config_init(ctypes.byref(refused), ctypes.sizeof(refused))
    library().zero1_optimizer_create(handle.pointer, ctypes.byref(refused), None,
                                     ctypes.sizeof(_structs.ParamSpec), -1, ctypes.byref(made))


def create(comm: Comm, given: Iterable[Any], groups: Sequence[Group] | None,
           arguments: dict[str, Any]) -> tuple[list[Param], Handle]:
    """Collective. What is wrong with this rank's arguments is found before ranks meet; it meets them all the
    same, with arguments that the library refuses, so that every rank raises."""
    handle = require(comm)
    made = ctypes.c_void_p()
    try:
        config, params = config_of(groups, arguments), params_of(given)
        specs = specs_of(params)
        _check_values(params, config)
    except (Error, TypeError, ValueError, OverflowError):
        refuse(comm)
        raise
    status = library().zero1_optimizer_create(handle.pointer, ctypes.byref(config), specs,
                                              ctypes.sizeof(_structs.ParamSpec), len(params),
                                              ctypes.byref(made))
    if status:
        raise failure(status, library().zero1_comm_last_error(handle.pointer))
    assert made.value is not None
    agree_comm = arguments.get("agree_comm")
    return params, Handle("optimizer", made.value, (handle, agree_comm and require(agree_comm)))
