"""What crosses over to C: ctypes cuts off what does not fit a number, and C ends a text at its zero byte. Here
both are refused, as is a NaN: no call of the library takes one."""

import ctypes
import math
import operator
import os
from collections.abc import Callable, Sequence
from ctypes import c_char_p, c_double, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any, NamedTuple

from .errors import InvalidError

_INTEGERS: dict[Any, tuple[str, int, int]] = {
    kind: (name, low, high) for kind, name, low, high in (
        (c_int32, "int32", -2**31, 2**31 - 1), (c_int64, "int64", -2**63, 2**63 - 1),
        (c_uint32, "uint32", 0, 2**32 - 1), (c_uint64, "uint64", 0, 2**64 - 1))}
# Where types of C are the same, ctypes has one type for them.
_INTEGERS.setdefault(c_size_t, ("size_t", 0, 2**64 - 1))


class Argument(NamedTuple):
    """A number or a text that the caller of the package gives, and its name in the headers."""

    kind: Any
    name: str
    #: Of a collective call: what the library refuses. It gets that in place of what does not cross over, so
    #: that the ranks meet and every one of them raises.
    refused: Any = ...


def _integer(kind: Any, name: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise InvalidError(f"{name} is {value!r:.100}, not an integer") from None
    what, low, high = _INTEGERS[kind]
    if not low <= number <= high:
        raise InvalidError(f"{name} is {number}, which does not fit {what}")
    return number


def _double(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise InvalidError(f"{name} is {value!r:.100}, not a number") from None
    if math.isnan(number):
        raise InvalidError(f"{name} is nan")
    return number


def _text(name: str, value: Any) -> bytes | None:
    if value is None:
        return None
    try:
        raw = value.encode() if isinstance(value, str) else os.fsencode(value)
    except UnicodeEncodeError:
        raise InvalidError(f"{name} is {value!r:.100}, which is not UTF-8") from None
    except TypeError:
        raise InvalidError(f"{name} is {value!r:.100}, not a text") from None
    if b"\0" in raw:
        raise InvalidError(f"{name} is {value!r:.100}, which has a zero byte in it")
    return bytes(raw)


def _address(name: str, value: Any) -> Any:
    """None, a c_void_p and what else ctypes takes for memory stay what they are."""
    return _integer(c_uint64, name, value) if isinstance(value, int) else value


def checked(kind: Any, name: str, value: Any) -> Any:
    """[kind] of ctypes: `value` as C gets it, whole. InvalidError: names the argument and its value."""
    if kind in _INTEGERS:
        return _integer(kind, name, value)
    if kind is c_double:
        return _double(name, value)
    if kind is c_char_p:
        return _text(name, value)
    return _address(name, value) if kind is c_void_p else value


def _plain(argument: Argument) -> tuple[Any, Any, Any]:
    """A type of Python and a range: values of it that cross over as they are. (A NaN is in no range.)"""
    if argument.kind is c_double:
        return float, -math.inf, math.inf
    if argument.kind is c_char_p:
        return int, 1, 0  # none: each is looked at
    _, low, high = _INTEGERS[c_uint64 if argument.kind is c_void_p else argument.kind]
    return int, low, high


def checking(call: Any, arguments: Sequence[Any]) -> Callable[..., Any]:
    """A function of the library that checks what is an Argument, and then makes the call."""
    given = [(place, argument) for place, argument in enumerate(arguments) if isinstance(argument, Argument)]
    refused = {place: argument.refused for place, argument in given if argument.refused is not ...}
    plain: list[tuple[int, Any, Any, Any]] = [(place, *_plain(argument)) for place, argument in given]
    if not given:
        return call  # type: ignore[no-any-return]

    def careful_call(*values: Any) -> Any:
        passed = list(values)
        try:
            for place, argument in given:
                passed[place] = checked(argument.kind, argument.name, passed[place])
        except InvalidError:
            if refused:
                call(*(refused.get(place, value) for place, value in enumerate(values)))
            raise
        return call(*passed)

    def checking_call(*values: Any) -> Any:
        for place, kind, low, high in plain:  # quickly: it is between a layer and the next one
            value = values[place]
            if type(value) is not kind or not low <= value <= high:
                return careful_call(*values)
        return call(*values)
    return checking_call


class Struct(ctypes.Structure):
    """One whose numbers and texts are checked when they are set."""

    def __setattr__(self, name: str, value: Any) -> None:
        for field in self._fields_:
            if field[0] == name:
                value = checked(field[1], name, value)
        super().__setattr__(name, value)
