#!/usr/bin/env python3
"""Trains a small network with plain NumPy, its optimizer's state sharded over the ranks of mpirun.

    pip install ./python
    mpirun -n 2 python3 examples/train_numpy.py --checkpoint numpy_run
    mpirun -n 3 python3 examples/train_numpy.py --checkpoint numpy_run --steps 400    # goes on, at 3 ranks

Learns sin(3 x) cos(2 y) from random points; each rank draws its own. Needs neither mpi4py nor PyTorch."""

import argparse

import numpy

import zero1

HIDDEN, BATCH = 64, 128


def initial_params() -> dict[str, numpy.ndarray]:
    random = numpy.random.default_rng(1)
    sizes = [("first", 2, HIDDEN), ("second", HIDDEN, HIDDEN), ("last", HIDDEN, 1)]
    params = {}
    for name, inputs, outputs in sizes:
        params[f"{name}.weight"] = random.normal(0, inputs**-0.5, (inputs, outputs)).astype(numpy.float32)
        params[f"{name}.bias"] = numpy.zeros(outputs, numpy.float32)
    return params


def draw_batch(step: int, rank: int, world_size: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """The same points for a step whatever the number of steps before it, so that a resumed run draws on."""
    random = numpy.random.default_rng([step, rank, world_size])
    points = random.uniform(-1, 1, (BATCH, 2)).astype(numpy.float32)
    return points, (numpy.sin(3 * points[:, :1]) * numpy.cos(2 * points[:, 1:])).astype(numpy.float32)


def train_step(opt: zero1.Optimizer, points: numpy.ndarray, targets: numpy.ndarray) -> float:
    """One step; returns this rank's loss. A gradient is on its way to the peers as soon as it is there."""
    opt.wait_params()
    layers = [(opt.params[f"{name}.weight"], opt.params[f"{name}.bias"]) for name in ("first", "second", "last")]
    inputs = [points]
    for weight, bias in layers[:-1]:
        inputs.append(numpy.tanh(inputs[-1] @ weight + bias))
    error = inputs[-1] @ layers[-1][0] + layers[-1][1] - targets

    back = 2 * error / len(points)
    for layer in (2, 1, 0):
        weight_index, bias_index = 2 * layer, 2 * layer + 1
        numpy.sum(back, axis=0, out=opt.grads[bias_index])
        opt.grad_ready(bias_index)
        numpy.matmul(inputs[layer].T, back, out=opt.grads[weight_index])
        opt.grad_ready(weight_index)
        if layer:
            back = (back @ layers[layer][0].T) * (1 - inputs[layer] ** 2)
    opt.step()
    return float(numpy.mean(error**2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=200, help="in all, those before a resume included")
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--checkpoint", help="a folder: goes on from it where it has one, and saves there")
    arguments = parser.parse_args()

    with zero1.Comm.world() as comm, zero1.Optimizer(initial_params(), comm=comm, lr=arguments.lr,
                                                     max_grad_norm=1.0) as opt:
        start = 0
        if arguments.checkpoint:
            try:
                opt.load(arguments.checkpoint)
                start = opt.info().count
            except zero1.NotFoundError:
                pass
        if comm.rank == 0 and start:
            print(f"goes on from step {start}")
        for step in range(start + 1, arguments.steps + 1):
            loss = train_step(opt, *draw_batch(step, comm.rank, comm.world_size))
            if comm.rank == 0 and step % 20 == 0:
                print(f"step {step:5d}  loss {loss:.6f}  grad_norm {opt.info().grad_norm:.4f}", flush=True)
        if arguments.checkpoint:
            opt.save(arguments.checkpoint, keep_last=2)


if __name__ == "__main__":
    main()
