"""Numbers and texts on their way to C: what would be cut off, or is nan, is refused by name and value."""

import ctypes
import math

import numpy
import pytest

from python_case import made, needs_library, one_step, values
import zero1
from zero1 import _arguments, _library, _structs

pytestmark = needs_library

#: Numbers that ctypes makes others of (0, 0, -1, 1, ...), or that are none.
WRONG_INT64 = [2**64, -2**64, 2**63, 2**64 + 1, 10**30, 1.0, math.nan, "1", None]


def numbers_of(calls: dict) -> list[tuple[str, int, _arguments.Argument]]:
    return [(name, place, argument) for name, arguments in calls.items() for place, argument in enumerate(arguments)
            if isinstance(argument, _arguments.Argument)]


def all_calls() -> dict:
    return _library.STATUS_CALLS | {name: arguments for name, (_, arguments) in _library.OTHER_CALLS.items()}


def wrong_for(kind) -> list:
    if kind is ctypes.c_double:
        return [math.nan, "fast", None, 10**400]
    if kind is ctypes.c_char_p:
        return ["a\0b", b"a\0b", "\ud800", 3]
    if kind is ctypes.c_void_p:
        return [2**64, -2]
    return WRONG_INT64 + ([2**32, 2**31, -2**31 - 1] if kind is ctypes.c_int32 else [])


@pytest.mark.parametrize("name, place, argument", numbers_of(all_calls()))
def test_every_argument_of_every_call_is_checked(name, place, argument):
    """The call is not made: its handle would be refused with a status, or crash."""
    for wrong in wrong_for(argument.kind):
        given = [7 if isinstance(other, _arguments.Argument) and other.kind is not ctypes.c_char_p else None
                 for other in all_calls()[name]]
        given[place] = wrong
        with pytest.raises(zero1.InvalidError) as raised:
            getattr(_library.library(), "zero1_" + name)(*given)
        assert str(raised.value).startswith(f"{argument.name} is ")
        assert repr(wrong)[:100] in str(raised.value)


def test_no_number_is_left_unchecked_but_those_that_the_package_makes():
    kinds = {ctypes.c_int32, ctypes.c_int64, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_double, ctypes.c_char_p}
    bare = {name for name, arguments in all_calls().items() if kinds & set(arguments)}
    # Of lists that the package has made: its parameters, and how many ranges there are. Sizes of structs
    # are c_size_t, which is c_uint64.
    assert {name for name in bare if {ctypes.c_int64, ctypes.c_int32} & set(all_calls()[name])} == {
        "optimizer_create", "optimizer_owned"}
    assert not {name for name in bare if {ctypes.c_double, ctypes.c_char_p} & set(all_calls()[name])}


def test_what_fits_crosses_over_whole():
    for kind, good in [(ctypes.c_int64, [0, -1, 2**63 - 1, -2**63, numpy.int32(7), True]),
                       (ctypes.c_int32, [2**31 - 1, -2**31]), (ctypes.c_uint32, [0, 2**32 - 1]),
                       (ctypes.c_size_t, [0, 2**64 - 1])]:
        for value in good:
            assert _arguments.checked(kind, "it", value) == value
    assert _arguments.checked(ctypes.c_double, "it", numpy.float32(0.5)) == 0.5
    assert _arguments.checked(ctypes.c_double, "it", math.inf) == math.inf
    assert _arguments.checked(ctypes.c_char_p, "it", "é") == "é".encode()
    assert _arguments.checked(ctypes.c_char_p, "it", b"\xff") == b"\xff"
    assert _arguments.checked(ctypes.c_char_p, "it", None) is None


@pytest.mark.parametrize("struct", _structs.BY_NAME.values())
def test_every_field_of_every_struct_is_checked(struct):
    made_struct, checked = struct(), 0
    for field, kind in struct._fields_:
        if kind in (ctypes.c_int32, ctypes.c_uint32):
            wrong = [2**32, 1.5]
        elif kind in (ctypes.c_int64, ctypes.c_size_t, ctypes.c_uint64):
            wrong = [2**64, "1"]
        elif kind is ctypes.c_double:
            wrong = [math.nan, "fast"]
        elif kind is ctypes.c_char_p:
            wrong = ["a\0b"]
        else:
            continue
        for value in wrong:
            with pytest.raises(zero1.InvalidError, match=f"^{field} is "):
                setattr(made_struct, field, value)
            checked += 1
    assert checked > 0


def test_an_index_is_not_wrapped_around():
    """2**64 + 1 is 1 to ctypes: the gradient of another parameter would be given away."""
    with made() as opt:
        opt.wait_params()
        for call in (opt.grad_ready, opt.grad_absent, opt.wait_param, opt.wait_grad, opt.param_pointer,
                     opt.grad_pointer, opt.get_group, lambda index: opt.set_lr(0.5, index),
                     lambda index: opt.set_group(zero1.Group(), index), opt.residual):
            for wrong in (2**64 + 1, -2**64):
                with pytest.raises(zero1.InvalidError, match=str(wrong)):
                    call(wrong)
            with pytest.raises(zero1.InvalidError, match="-1"):
                call(-1)
        assert one_step(opt).count == 1


def test_state_is_set_of_a_parameter_that_is_there_with_as_many_values():
    with made() as opt:
        opt.set_state(numpy.int64(1), "exp_avg", numpy.arange(4, dtype=numpy.float32))
        assert opt.get_state(numpy.int64(1), "exp_avg").tolist() == [0, 1, 2, 3]
        for index in (-1, 3, 2**64 + 1, 1.0, None):
            with pytest.raises(zero1.InvalidError):
                opt.set_state(index, "exp_avg", numpy.zeros(4, numpy.float32))
            with pytest.raises(zero1.InvalidError):
                opt.get_state(index, "exp_avg")
        for index in (1, numpy.int64(1)):
            for wrong in (numpy.zeros(3, numpy.float32), numpy.zeros(4)):
                with pytest.raises(zero1.InvalidError, match="'bias'"):
                    opt.set_state(index, "exp_avg", wrong)
        for call in (lambda: opt.set_state(1, "none", numpy.zeros(4, numpy.float32)), lambda: opt.get_state(1, "none")):
            with pytest.raises(zero1.InvalidError, match="state is 'none'"):
                call()
        with pytest.raises(zero1.InvalidError, match="count is"):
            opt.set_count(2**64 + 1)
        opt.set_count(5)
        assert one_step(opt).count == 6


def test_nan_is_no_hyper_parameter():
    with made() as opt:
        for call in (opt.set_lr, opt.set_grad_scale, opt.set_max_grad_norm, opt.set_skip_grad_norm,
                     lambda value: opt.set_group(zero1.Group(beta1=value))):
            with pytest.raises(zero1.InvalidError, match="nan"):
                call(math.nan)
        assert opt.get_group().lr == 0.5
    for name in ("lr", "beta2", "eps", "weight_decay", "grad_scale", "max_grad_norm", "skip_grad_norm",
                 "timeout_seconds", "offload"):
        with pytest.raises(zero1.InvalidError, match=f"{name} is nan"):
            zero1.Optimizer(values(), **{name: math.nan})
    with pytest.raises(zero1.InvalidError, match="timeout_seconds is nan"):
        zero1.Comm.self(timeout_seconds=math.nan)


@pytest.mark.parametrize("options, said", [
    ({"ranks_per_node": 2**32}, "ranks_per_node is 4294967296"),
    ({"workspace_bytes": 2**64}, "workspace_bytes is 18446744073709551616"),
    ({"workspace_bytes": 1.5}, "workspace_bytes is 1.5, not an integer"),
    ({"timeout_seconds": "long"}, "timeout_seconds is 'long'"),
])
def test_options_of_a_communicator_are_checked(options, said):
    with pytest.raises(zero1.InvalidError, match=said):
        zero1.Comm.self(**options)


def test_counts_of_ranks_are_checked_before_memory_is_taken_for_them():
    for wrong in (2**32 + 2, 2**64, 1.0):
        with pytest.raises(zero1.InvalidError, match="world_size is"):
            zero1.Comm.threads(wrong)
    for wrong in (0, -1):
        with pytest.raises(zero1.InvalidError, match="world_size"):
            zero1.Comm.threads(wrong)
    with pytest.raises(zero1.InvalidError, match="mpi_comm_f is 4294967296"):
        zero1.Comm.from_mpi_handle(2**32)
    with pytest.raises(zero1.InvalidError, match="rank is 4294967296"):
        zero1.Comm.from_allgather(2**32, 1, lambda data: [data])
    with pytest.raises(zero1.InvalidError, match="unique_id is a str"):
        zero1.Comm.from_nccl_id(0, 1, "id")


def test_a_name_with_a_zero_byte_finds_nothing_shorter():
    with made() as opt:
        assert opt.find("weight") == 0
        for wrong in ("weight\0", "weight\0more", "\ud800"):
            with pytest.raises(zero1.InvalidError, match="name is "):
                opt.find(wrong)


def test_options_of_checkpoints_are_checked(tmp_path):
    with made() as opt:
        for options, said in [({"keep_last": 2**64 + 1}, "keep_last is 1844"), ({"keep_every": "2"}, "keep_every"),
                              ({"metadata": {"a": "b\0c"}}, "metadata 'a': its value"),
                              ({"metadata": {"a\0": "b"}}, "its key"), ({"no_lock": None}, "no_lock is None")]:
            with pytest.raises(zero1.InvalidError, match=said):
                opt.save(tmp_path / "root", **options)
        for wrong in (f"{tmp_path}/root\0more", 3):
            with pytest.raises(zero1.InvalidError, match="root is "):
                opt.save(wrong)
            with pytest.raises(zero1.InvalidError, match="dir is "):
                opt.load(wrong)
        with pytest.raises(zero1.InvalidError, match="allow_extra is "):
            opt.load(tmp_path, allow_extra="a\0b")
        assert not (tmp_path / "root").exists()
        opt.save(bytes(tmp_path / "root"))  # any path of Python's
        opt.load(str(tmp_path / "root"))
