"""What the tests of the package zero1 share: where it and its library are, the environment of ranks, and a small
optimizer. Without torch, which takes seconds to import: torch_ranks.py has what its tests share."""

import os
import pathlib
import sys

import numpy
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "python"))
os.environ.setdefault("ZERO1_LIBRARY", str(ROOT / "build" / "libzero1.so"))
LIBRARY = pathlib.Path(os.environ["ZERO1_LIBRARY"]).resolve()

import zero1

#: Of processes that mpirun or torchrun starts.
ENVIRONMENT = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                            "OMPI_MCA_mpi_yield_when_idle": "1", "PYTHONPATH": str(ROOT / "python"),
                            "ZERO1_LIBRARY": str(LIBRARY), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
                            "OPENBLAS_NUM_THREADS": "1"}

needs_library = pytest.mark.skipif(not LIBRARY.exists(), reason="libzero1.so is not built")

SHAPES = {"weight": (3, 4), "bias": (4,), "scale": ()}


def values(dtype=numpy.float32) -> dict[str, numpy.ndarray]:
    return {name: numpy.arange(1, 1 + numpy.prod(shape, dtype=int)).reshape(shape).astype(dtype)
            for name, shape in SHAPES.items()}


def made(params=None, **config) -> zero1.Optimizer:
    return zero1.Optimizer(params or values(), lr=0.5, weight_decay=0.0, eps=0.0, **config)


def one_step(opt: zero1.Optimizer, gradient: float = 1) -> zero1.Info:
    opt.wait_params()
    for grad in opt.grads:
        if grad is not None:
            grad[...] = gradient
    opt.grads_ready()
    opt.step()
    return opt.info()
