"""The package zero1 in one process: tensors, steps, life and death, bad input."""

import gc
import threading

import numpy
import pytest

from python_case import SHAPES, made, needs_library, one_step, values
import zero1

pytestmark = needs_library


def test_a_step_moves_parameters_by_lr():
    with made() as opt:
        info = one_step(opt)
        assert info.count == info.attempts == 1 and not info.skipped and info.skip_reason == "none"
        assert info.grad_norm == pytest.approx(17**0.5)
        for name, value in values().items():
            numpy.testing.assert_allclose(opt.params[name], value - 0.5, rtol=1e-6)


def test_tensors_are_views_of_the_librarys_memory():
    with made() as opt:
        assert opt.params["weight"].ctypes.data == opt.param_pointer(0)
        assert opt.grads[1].ctypes.data == opt.grad_pointer(opt.find("bias"))
        assert [array.shape for array in opt.params] == list(SHAPES.values())
        view = opt.params[0]
        one_step(opt)
        assert view[0, 0] == pytest.approx(0.5) and view is opt.params[0]
        opt.grads[0] += 1
        opt.grads["bias"] = numpy.full(4, 2, numpy.float32)
        assert opt.grads[1].tolist() == [2] * 4


def test_a_view_outlives_its_optimizer():
    opt = made()
    view, part = opt.params["weight"], opt.params["bias"][1:]
    opt.close()
    del opt
    gc.collect()
    assert (view == values()["weight"]).all() and part.tolist() == [2, 3, 4]
    view[...] = 7
    assert (view == 7).all()


def test_use_after_close_raises():
    opt = made()
    opt.close()
    opt.close()
    for use in (opt.step, opt.info, opt.wait_params, opt.memory, opt.owned, opt.abort, lambda: opt.params,
                lambda: opt.grads, lambda: len(opt), lambda: opt.set_lr(1), lambda: opt.save("nowhere")):
        with pytest.raises(zero1.StateError, match="closed"):
            use()
    comm = zero1.Comm.self()
    comm.close()
    for use in (comm.barrier, lambda: comm.rank, lambda: zero1.Optimizer(values(), comm=comm)):
        with pytest.raises(zero1.StateError, match="closed"):
            use()
    assert "closed" in repr(comm)


def test_an_optimizer_outlives_the_close_of_its_communicator():
    with zero1.Comm.self() as comm:
        opt = made(comm=comm)
    del comm
    gc.collect()
    assert one_step(opt).count == 1


@pytest.mark.parametrize("params, said", [
    ([("weight", numpy.ones(3))], "weight.*float64.*float32"),
    ([("weight", numpy.ones(3, numpy.int32))], "weight.*int32"),
    ([("", (2,))], "name"),
    ([("a", (2,)), ("a", (3,))], "a"),
    ([("a\0b", (2,))], "zero byte"),
    ([("a", (-1,))], "a"),
    ([("a", (2,), 5)], "group"),
    ([("a", "shape")], "invalid literal|neither"),
    ([("a", 3)], "neither a shape nor an array"),
    ([3], "a parameter is"),
    ([("a", (2**64 + 2,))], "a.*does not fit"),
    ([("a", (2,), 2**32)], "a.*does not fit"),
])
def test_bad_parameters_are_refused_by_name(params, said):
    with pytest.raises(ValueError, match=said):
        zero1.Optimizer(params)


@pytest.mark.parametrize("config, said", [
    ({"lr": -1.0}, "lr"), ({"beta1": 1.0}, "beta1"), ({"param_dtype": "fp64"}, "fp64.*fp32, bf16"),
    ({"no_such": 1}, "no_such"), ({"threads": "two"}, "threads"), ({"threads": 2**32 + 1}, "threads.*fit"),
    ({"lr": "fast"}, "lr is 'fast'"),
    ({"groups": [zero1.Group()], "lr": 1.0}, "lr beside groups"), ({"groups": [1]}, "zero1.Group"),
    ({"comm": 3}, "zero1.Comm"), ({"reduce_group": 2}, "reduce_group"),
])
def test_bad_configuration_is_refused_by_name(config, said):
    with pytest.raises(zero1.InvalidError, match=said):
        zero1.Optimizer(values(), **config)


def test_what_is_assigned_has_the_shape_and_data_type():
    with made() as opt:
        for wrong in (numpy.ones((4, 3), numpy.float32), numpy.ones((3, 4)), 1.0):
            with pytest.raises(zero1.InvalidError, match="weight.*float32"):
                opt.grads["weight"] = wrong
        with pytest.raises(zero1.InvalidError, match="none"):
            opt.params["none"]
        with pytest.raises(IndexError):
            opt.params[3]
        opt.grads["weight"] = numpy.ones((4, 3), numpy.float32).T  # any strides: it is copied
        with pytest.raises(zero1.InvalidError):
            opt.find("none")
        with pytest.raises(zero1.InvalidError):
            opt.grad_ready(17)
        with pytest.raises(zero1.StateError):
            opt.step()
            opt.info()


def test_frozen_parameters_have_no_gradient():
    params = [("weight", values()["weight"]), ("table", values()["bias"], 0, zero1.FROZEN)]
    with zero1.Optimizer(params) as opt:
        assert opt.grads["table"] is None and opt.grad_pointer(1) == 0
        one_step(opt)
        assert opt.params["table"].tolist() == [1, 2, 3, 4]
        with pytest.raises(zero1.InvalidError, match="frozen"):
            opt.grads["table"] = values()["bias"]


def test_a_parameter_of_no_element_is_a_parameter():
    with zero1.Optimizer({"none": (0, 3), "bias": values()["bias"]}, lr=0.5, weight_decay=0.0) as opt:
        one_step(opt)
        assert opt.params["none"].shape == opt.grads["none"].shape == (0, 3)
        assert opt.params["bias"][0] == pytest.approx(0.5)


def test_residuals_are_those_of_8_bit_gradients():
    with made() as opt:
        assert opt.residual(0) is None
    with made(grad_wire_dtype="int8") as opt:
        opt.wait_params()
        opt.grads["weight"] = numpy.linspace(0, 1, 12, dtype=numpy.float32).reshape(3, 4)
        opt.grads_ready()
        opt.step()
        assert opt.residual(0).shape == (3, 4) and 0 < abs(opt.residual(0)).max() < 1 / 127


def test_bf16_is_its_bits():
    floats = numpy.array([1, -2.5, 1 + 2**-8, 1 + 3 * 2**-8, numpy.inf, numpy.nan, 0], numpy.float32)
    bits = zero1.float32_to_bf16(floats)
    again = zero1.bf16_to_float32(bits)
    assert again[:5].tolist() == [1, -2.5, 1, 1 + 2**-6, numpy.inf] and numpy.isnan(again[5])
    with zero1.Optimizer({"a": numpy.array([1, 2], numpy.float32), "b": bits[:2]}, param_dtype="bf16",
                         grad_dtype="bf16", lr=0.5, weight_decay=0.0) as opt:
        assert opt.params["a"].dtype == numpy.uint16
        opt.grads["a"] = zero1.float32_to_bf16([1, 1])
        opt.grads["b"] = zero1.float32_to_bf16([1, 1])
        opt.grads_ready()
        opt.step()
        opt.info()
        assert zero1.bf16_to_float32(opt.params["a"]).tolist() == [0.5, 1.5]
        assert {owned.param: owned.exp_avg.dtype for owned in opt.owned()}[0] == numpy.float32


def test_hyper_parameters_are_set_and_told():
    groups = [zero1.Group(lr=0.5, eps=0.0, weight_decay=0.0), zero1.Group(lr=0.0)]
    with zero1.Optimizer([("a", values()["bias"]), ("b", values()["bias"], 1)], groups=groups) as opt:
        assert opt.get_group(1) == groups[1]
        one_step(opt)
        assert opt.params["b"].tolist() == [1, 2, 3, 4] and opt.params["a"][0] == pytest.approx(0.5)
        opt.set_lr(0.25)
        opt.set_group(zero1.Group(lr=0.125), 1)
        assert opt.get_group(0).lr == 0.25 and opt.get_group(1).lr == 0.125
        opt.set_max_grad_norm(1.0)
        assert one_step(opt).clip_coef < 1
        opt.set_skip_grad_norm(1e-3)
        info = one_step(opt)
        assert info.skipped and info.skip_reason == "norm"
        for wrong in (lambda: opt.set_lr(-1), lambda: opt.set_lr(1, 2), lambda: opt.set_grad_scale(0)):
            with pytest.raises(zero1.InvalidError):
                wrong()


def test_gradients_are_dropped_or_absent_or_not_finite():
    with made() as opt:
        opt.grads_ready()
        opt.reduce_grads()
        opt.drop_grads()
        assert opt.info().skip_reason == "dropped"
        opt.zero_grad()
        for index in range(3):
            opt.grad_absent(index)
        opt.step()
        opt.info()
        assert (opt.params[0] == values()["weight"]).all()
        info = one_step(opt, numpy.nan)
        assert info.skip_reason == "nonfinite" and info.bad_rank == 0 and info.nonfinite_numel == 17


def test_owned_ranges_are_read_only_and_tile():
    with made() as opt:
        one_step(opt)
        owned = opt.owned()
        assert sum(part.end - part.begin for part in owned) == 17
        assert not owned[0].exp_avg.flags.writeable
        assert owned[0].exp_avg[0] == pytest.approx(0.1)
        assert opt.memory().total_bytes > opt.memory().params_bytes > 0
        opt.check_replicas()


def test_threads_are_ranks():
    comms, seen = zero1.Comm.threads(2), [None, None]
    assert [comm.rank for comm in comms] == [0, 1] and comms[0].backend == "threads"

    def rank(index: int) -> None:
        with made(comm=comms[index], threads=1) as opt:
            one_step(opt, index + 1)
            seen[index] = (opt.params["bias"].copy(), opt.info().grad_norm)

    threads = [threading.Thread(target=rank, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (seen[0][0] == seen[1][0]).all()
    assert seen[0][1] == seen[1][1] == pytest.approx(1.5 * 17**0.5)


def test_an_all_gather_that_raises_is_the_cause():
    def gather(data: bytes) -> list[bytes]:
        raise KeyError("the launcher is gone")

    with pytest.raises(zero1.CommError) as raised:
        zero1.Comm.from_allgather(0, 2, gather)
    assert isinstance(raised.value.__cause__, KeyError)
    with pytest.raises(zero1.CommError) as raised:
        zero1.Comm.from_allgather(0, 2, lambda data: [data])
    assert isinstance(raised.value.__cause__, zero1.InvalidError)
    assert zero1.Comm.from_allgather(0, 1, lambda data: [data]).world_size == 1


def test_what_this_build_or_machine_has_not_is_told():
    with pytest.raises((zero1.UnsupportedError, zero1.NoDeviceError)):
        zero1.Optimizer(SHAPES, device="cuda")
    with pytest.raises(zero1.InvalidError, match="host's memory"):
        zero1.Optimizer(values(), device="cuda")
