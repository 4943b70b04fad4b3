"""What is dropped, closed or not, leaves no memory, no descriptor and no thread behind, in one process."""

import gc

import numpy
import pytest

from python_case import made, needs_library, one_step
from python_resources import resources
import zero1

pytestmark = needs_library

LARGE = {"large": numpy.ones(256 * 1024, numpy.float32)}  # 4 MiB of parameters, gradients and state


def optimizer(**config) -> zero1.Optimizer:
    opt = zero1.Optimizer(LARGE, threads=1, **config)
    one_step(opt)
    return opt


def an_optimizer(folder) -> None:
    optimizer()


def an_optimizer_of_8_bits(folder) -> None:
    optimizer(grad_wire_dtype="int8")


def an_optimizer_in_a_cycle(folder) -> None:
    opt = optimizer()
    opt.itself = opt  # only the collector ends it


def a_closed_optimizer_whose_view_goes_last(folder) -> None:
    opt = optimizer()
    view = opt.params["large"][5:]
    opt.close()
    assert view[0] < 1


def an_optimizer_that_cannot_be_made(folder) -> None:
    for params, config in [(LARGE, {"lr": -1.0}), (LARGE, {"no_such": 1}), ({"a": (2**64,)}, {}),
                           ([("a", (2,)), ("a", (2,))], {}), ({"large": LARGE["large"].astype(float)}, {})]:
        with pytest.raises(zero1.InvalidError):
            zero1.Optimizer(params, **config)


def an_optimizer_that_an_exception_ends(folder) -> None:
    with pytest.raises(ZeroDivisionError), made(LARGE) as opt:
        opt.grad_ready(0)
        1 / 0


def communicators_of_every_kind(folder) -> None:
    zero1.Comm.self()
    zero1.Comm.threads(3)
    zero1.Comm.threads(4, ranks_per_node=2)
    zero1.Comm.from_allgather(0, 1, lambda data: [data])
    for wrong in (lambda data: [data], lambda data: 1 / 0):
        with pytest.raises(zero1.CommError):
            zero1.Comm.from_allgather(0, 2, wrong)


def a_save_under_way(folder) -> None:
    opt = optimizer()
    opt.save_async(folder / "dropped", mode="snapshot")


def a_checkpoint(folder) -> None:
    saved = zero1.checkpoint.open(folder / "there")
    saved["large"], saved.read("large", "exp_avg", end=10)
    saved.verify(threads=2)
    saved.export(folder / "out", force=True)
    with pytest.raises(zero1.InvalidError):
        saved.read("none")
    with pytest.raises(ZeroDivisionError):
        saved.export(folder / "never", progress=lambda done, total: 1 / 0)
    with pytest.raises(zero1.NotFoundError):
        zero1.checkpoint.open(folder / "none")


@pytest.mark.parametrize("drop", [an_optimizer, an_optimizer_of_8_bits, an_optimizer_in_a_cycle,
                                  a_closed_optimizer_whose_view_goes_last, an_optimizer_that_cannot_be_made,
                                  an_optimizer_that_an_exception_ends, communicators_of_every_kind,
                                  a_save_under_way, a_checkpoint])
def test_nothing_is_left_of(drop, tmp_path):
    with optimizer() as opt:
        opt.save(tmp_path / "there")
    for _ in range(10):
        drop(tmp_path)
    before, objects = resources(), len(gc.get_objects())
    for count in range(60):
        drop(tmp_path)
        if count % 20 == 19:
            gc.collect()
    after, objects_after = resources(), len(gc.get_objects())
    assert after[0] - before[0] < 16 << 20  # 60 of one buffer of 1 MiB would be 60 MiB
    assert objects_after - objects < 60  # not one for each
    assert after[1:] == before[1:]
