"""Data types. NumPy has no bf16 of its own: bf16 tensors are uint16 arrays of the same bits, which the two
functions here convert, and which `array.view(ml_dtypes.bfloat16)` reinterprets where that is installed."""

from typing import Any

import numpy

from .errors import InvalidError

DTYPES = {"fp32": 0, "bf16": 1}
TYPESTR = {0: "<f4", 1: "<u2"}
WIRES = {"memory": 0, "fp32": 1, "bf16": 2, "int8": 3}
DEVICES = {"host": 0, "cuda": 1}


def number_of(choices: dict[str, int], name: str, what: str) -> int:
    """choices[name]. InvalidError: names the argument `what` and the choices."""
    if name not in choices:
        raise InvalidError(f"{what} is {name!r}, not one of {', '.join(choices)}")
    return choices[name]


def dtype_name(number: int) -> str:
    """The other way, of DTYPES."""
    return {its: name for name, its in DTYPES.items()}[number]


def bf16_to_float32(bits: Any) -> numpy.ndarray:
    """[bits] uint16, any shape: the same values as float32, exactly."""
    wide: numpy.ndarray = numpy.asarray(bits, numpy.uint16).astype(numpy.uint32) << 16
    floats: numpy.ndarray = wide.view(numpy.float32)
    return floats


def float32_to_bf16(values: Any) -> numpy.ndarray:
    """[values] float32, any shape: rounded to nearest even, as uint16 bits. A NaN stays one."""
    values = numpy.asarray(values, numpy.float32)
    bits = values.view(numpy.uint32)
    rounded = (bits + (((bits >> 16) & 1) + 0x7FFF)) >> 16
    kept: numpy.ndarray = numpy.where(numpy.isnan(values), (bits >> 16) | 0x40, rounded).astype(numpy.uint16)
    return kept


def as_stored(given: Any, dtype: int, what: str) -> numpy.ndarray:
    """A value as a tensor of `dtype` (of DTYPES) stores it: float32, or bf16's bits of float32, uint16 or
    ml_dtypes.bfloat16. InvalidError: an array of another data type; nothing is converted unasked."""
    value: numpy.ndarray = numpy.asarray(given)
    if dtype == DTYPES["fp32"] and value.dtype == numpy.float32:
        return value
    if dtype == DTYPES["bf16"]:
        if value.dtype == numpy.uint16:
            return value
        if value.dtype.name == "bfloat16":
            return value.view(numpy.uint16)
        if value.dtype == numpy.float32:
            return float32_to_bf16(value)
    takes = "float32" if dtype == DTYPES["fp32"] else "float32, or bf16 as uint16 or bfloat16"
    raise InvalidError(f"{what} is {value.dtype}, not {takes}")
