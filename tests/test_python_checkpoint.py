"""zero1.checkpoint in one process: saving and loading, reading lazily without MPI, exporting to safetensors."""

import importlib.util
import json
import os
import pathlib
import signal
import struct
import subprocess
import sys
import threading

import numpy
import pytest

from python_case import LIBRARY, ROOT, SHAPES, made, needs_library, one_step, values
import zero1

pytestmark = needs_library
needs_safetensors = pytest.mark.skipif(not importlib.util.find_spec("safetensors"),
                                       reason="safetensors is not installed: scripts/python_deps safetensors")


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path):
    with made() as whole, made() as resumed:
        one_step(whole)
        whole.save(tmp_path / "root", metadata={"epoch": "2"}, rank_metadata={"seed": "é"})
        assert whole.report().count == 1 and whole.report().bytes > 0
        resumed.load(tmp_path / "root")
        for opt in (whole, resumed):
            one_step(opt, 3)
        for one, other in zip(whole.params, resumed.params):
            assert (one == other).all()
        assert resumed.info().count == 2


def test_a_checkpoint_is_read_without_an_optimizer(tmp_path):
    with made() as opt:
        one_step(opt)
        opt.save(tmp_path, metadata={"epoch": "2"}, rank_metadata={"seed": "é"})
        weight = opt.params["weight"].copy()
    assert zero1.checkpoint.latest(tmp_path).endswith("step-000000000001")
    with zero1.checkpoint.open(tmp_path) as saved:
        assert (saved.count, saved.world_size, saved.param_dtype) == (1, 1, "fp32")
        assert {param.name: param.shape for param in saved.params} == SHAPES
        assert saved.metadata == {"epoch": "2"} and saved.value("seed", 0) == "é" and saved.value("no") is None
        assert saved.groups[0].lr == 0.5 and list(saved) == list(SHAPES)
        assert (saved["weight"] == weight).all() and saved["scale"].shape == ()
        assert saved.read("weight", "exp_avg", begin=2, end=5).tolist() == pytest.approx([0.1] * 3)
        assert (saved.read("weight", dtype="bf16") == zero1.float32_to_bf16(weight)).all()
        out = numpy.empty((4, 3), numpy.float32)
        assert saved.read("weight", out=out) is out and (out.ravel() == weight.ravel()).all()
        for wrong in (numpy.empty((3, 4)), numpy.empty((4, 3), numpy.float32).T[:, :2],
                      numpy.empty((4, 6), numpy.float32)[:, ::2]):
            with pytest.raises(zero1.InvalidError, match="weight"):
                saved.read("weight", out=wrong)
        for wrong in (lambda: saved.read("none"), lambda: saved.read("weight", "none"),
                      lambda: saved.read("weight", begin=5, end=2), lambda: saved.read("weight", end=99),
                      lambda: saved.read("weight", "residual")):
            with pytest.raises(zero1.InvalidError):
                wrong()
        with pytest.raises(KeyError):
            saved["none"]
        told = []
        saved.verify(progress=lambda done, total: told.append((done, total)))
        assert told and told[-1][0] <= told[-1][1]
        with pytest.raises(ZeroDivisionError):
            saved.verify(progress=lambda done, total: 1 / 0)
        with pytest.raises(zero1.AbortedError):
            saved.verify(progress=lambda done, total: True)
    with pytest.raises(zero1.StateError):
        saved["weight"]


@pytest.mark.parametrize("mode", ["pinned", "snapshot"])
def test_a_save_in_the_background_is_the_state_of_the_call(tmp_path, mode):
    with made() as opt:
        one_step(opt)
        bias = opt.params["bias"].copy()
        opt.save_async(tmp_path, mode=mode, keep_last=1)
        one_step(opt)
        opt.wait()
        assert opt.poll()
        assert (zero1.checkpoint.open(tmp_path)["bias"] == bias).all()
        opt.save_async(tmp_path, mode=mode, keep_last=1)
        opt.wait()
        assert [path.name for path in tmp_path.glob("step-*")] == ["step-000000000002"]
        with pytest.raises(zero1.InvalidError, match="mode"):
            opt.save_async(tmp_path, mode="later")


def test_failures_of_checkpoints_are_exceptions_of_python_too(tmp_path):
    with made() as opt:
        with pytest.raises(FileNotFoundError):
            opt.load(tmp_path / "none")
        with pytest.raises(zero1.StateError):
            opt.report()
        (tmp_path / "file").touch()
        with pytest.raises(OSError, match="file") as raised:
            opt.save(tmp_path / "file")
        assert isinstance(raised.value, zero1.IOError)
        with pytest.raises(zero1.InvalidError, match="metadata"):
            opt.save(tmp_path / "root", metadata={"epoch": 2})
        opt.save(tmp_path / "root")
    with pytest.raises(zero1.NotFoundError):
        zero1.checkpoint.open(tmp_path / "none")
    with pytest.raises(zero1.NotFoundError):
        zero1.checkpoint.latest(tmp_path / "none")
    with zero1.Optimizer({"weight": numpy.ones((4, 3), numpy.float32)}) as other:
        with pytest.raises(zero1.MismatchError, match="weight|bias"):
            other.load(tmp_path / "root")
    for tensors in (tmp_path / "root" / "latest").glob("*.safetensors"):
        damaged = bytearray(tensors.read_bytes())
        damaged[-1] ^= 1
        tensors.write_bytes(damaged)
    with zero1.checkpoint.open(tmp_path / "root") as saved, pytest.raises(zero1.CorruptError, match="rank-00000"):
        saved.verify()


# ---- reading lazily ----

#: Opens a root and reads a little; prints what that took. MPI is linked, and must not be started.
READS_A_LITTLE = """
import sys, zero1
from zero1 import _mpi
def field(path, name):
    return int(next(line.split()[1] for line in open(path) if line.startswith(name)))
zero1.Comm.self()  # the library and NumPy are loaded
io, rss = field("/proc/self/io", "rchar:"), field("/proc/self/status", "VmRSS:")
saved = zero1.checkpoint.open(sys.argv[1])
opened = field("/proc/self/io", "rchar:") - io
part = saved.read("large", "exp_avg", begin=3_000_000, end=3_000_004)
read = field("/proc/self/io", "rchar:") - io - opened
peak = field("/proc/self/status", "VmHWM:") - rss
try: started = _mpi._flag("MPI_Initialized")
except zero1.UnsupportedError: started = False
print(opened, read, peak * 1024, started, part.tolist())
"""


def test_opening_reads_the_manifest_and_reading_what_is_asked_for(tmp_path):
    with made({"large": numpy.ones((4, 2**20), numpy.float32), "bias": numpy.ones(4, numpy.float32)}) as opt:
        one_step(opt, 2)
        opt.save(tmp_path)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "python"), "ZERO1_LIBRARY": str(LIBRARY)}
    ended = subprocess.run([sys.executable, "-c", READS_A_LITTLE, tmp_path], env=environment, capture_output=True,
                           text=True, check=True)
    opened, read, peak, started, part = ended.stdout.split(maxsplit=4)
    assert int(opened) < 64 << 10  # of 48 MiB
    assert int(read) < 3 << 20  # at most two chunks of 1 MiB
    assert int(peak) < 24 << 20  # its buffer of 16 MiB
    assert started == "False"
    assert json.loads(part) == pytest.approx([0.2] * 4)


def test_a_file_that_is_damaged_concerns_its_own_parameters_alone(tmp_path):
    comms = zero1.Comm.threads(2)

    def rank(index: int) -> None:
        params = {name: numpy.full(2**20, 3, numpy.float32) for name in ("first", "second")}
        with made(params, comm=comms[index], threads=1, bucket_numel=2**20) as opt:
            one_step(opt)
            opt.save(tmp_path)

    threads = [threading.Thread(target=rank, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with zero1.checkpoint.open(tmp_path) as saved:
        whole = saved["second"]
        with open(os.path.join(saved.path, next(iter(saved.files))), "r+b") as file:
            file.truncate(100)
        with pytest.raises(zero1.CorruptError, match="rank-00000"):
            saved["second"]
        half = 2**20 // 2
        assert (saved.read("second", begin=half) == whole[half:]).all()  # rank 1 has saved that


def test_ranges_are_checked_before_memory_is_taken_for_them(tmp_path):
    with made() as opt:
        opt.save(tmp_path)
    with zero1.checkpoint.open(tmp_path) as saved:
        assert saved.read("weight", begin=3, end=3).shape == (0,)
        for begin, end in [(-1, 2), (0, 13), (5, 2), (0, 2**62), (13, None), (2**64, None), (0.0, 1)]:
            with pytest.raises(zero1.InvalidError):
                saved.read("weight", begin=begin, end=end)
        assert saved.find("bias") == 1
        with pytest.raises(zero1.InvalidError, match="'weight\\\\x00'"):
            saved.read("weight\0")
        with pytest.raises(zero1.InvalidError, match="rank is"):
            saved.value("seed", 2**32)


# ---- export ----


def read_safetensors(path: pathlib.Path) -> tuple[dict, dict]:
    """The metadata, and the tensors; bf16 as uint16 of its bits. Needs no package."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + length])
    metadata = header.pop("__metadata__")
    tensors = {}
    for name, entry in header.items():
        raw = data[8 + length:][slice(*entry["data_offsets"])]
        tensors[name] = numpy.frombuffer(raw, {"F32": "<f4", "BF16": "<u2"}[entry["dtype"]]).reshape(entry["shape"])
    return metadata, tensors


@pytest.fixture(params=["fp32", "bf16"])
def saved(request, tmp_path):
    params = [*values().items(), ("table", numpy.full((2, 3), 1 / 3, numpy.float32), 0, zero1.FROZEN)]
    with zero1.Optimizer(params, lr=1 / 3, param_dtype=request.param) as opt:
        one_step(opt)
        opt.save(tmp_path / "root")
    with zero1.checkpoint.open(tmp_path / "root") as reader:
        yield reader


def same(tensors: dict, saved: zero1.checkpoint.Reader, *what, names=(*SHAPES, "table"), **how) -> bool:
    return tensors.keys() == set(names) and all(
        tensor.tobytes() == saved.read(name, *what, **how).tobytes() and tensor.shape == saved.read(name, *what).shape
        for name, tensor in tensors.items())


def test_an_export_holds_what_is_read(saved, tmp_path):
    path = tmp_path / "model.safetensors"
    assert saved.export(path) == 1
    metadata, tensors = read_safetensors(path)
    assert metadata == {"format": "pt"} and same(tensors, saved)
    assert {tensor.dtype.str for tensor in tensors.values()} == {"<f4" if saved.param_dtype == "fp32" else "<u2"}
    for state, dtype in [("master_param", None), ("master_param", "bf16"), ("param", "fp32")]:
        saved.export(path, state, dtype=dtype, force=True)
        assert same(read_safetensors(path)[1], saved, state, dtype=dtype)


def test_states_are_exported_side_by_side_without_frozen_parameters(saved, tmp_path):
    for state in ("param", "exp_avg", "exp_avg_sq"):
        saved.export(tmp_path / "out", state)
    assert sorted(os.listdir(tmp_path / "out")) == ["exp_avg.safetensors", "exp_avg_sq.safetensors",
                                                    "model.safetensors"]
    metadata, tensors = read_safetensors(tmp_path / "out" / "exp_avg.safetensors")
    assert metadata == {"format": "pt", "state": "exp_avg"} and same(tensors, saved, "exp_avg", names=SHAPES)
    assert tensors["bias"].tolist() == pytest.approx([0.1] * 4)


def test_beyond_a_size_there_are_several_files_and_their_index(saved, tmp_path):
    assert saved.export(tmp_path / "out", dtype="fp32", max_bytes=48) == 2  # 48; 16 + 4 + 24
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 92}
    tensors = {}
    for name in set(index["weight_map"].values()):
        some = read_safetensors(tmp_path / "out" / name)[1]
        assert {index["weight_map"][tensor] for tensor in some} == {name}
        tensors |= some
    assert same(tensors, saved, dtype="fp32") and index["weight_map"].keys() == tensors.keys()
    with pytest.raises(zero1.UnsupportedError, match="give a folder"):
        saved.export(tmp_path / "one.safetensors", max_bytes=10)


def test_an_export_that_is_refused_or_fails_leaves_nothing(saved, tmp_path):
    before = sorted(os.listdir(tmp_path))
    for arguments, said in [({"state": "none"}, "state is 'none'"), ({"dtype": "fp16"}, "fp16"),
                            ({"max_bytes": -1}, "max_bytes is -1"), ({"max_bytes": 2**64}, "max_bytes is 1844"),
                            ({"rank": 2**32}, "rank is 4294967296"), ({"state": "residual"}, "residual")]:
        with pytest.raises(zero1.InvalidError, match=said):
            saved.export(tmp_path / "out", **arguments)
    with pytest.raises(OSError, match="none"):
        saved.export(tmp_path / "none" / "out")
    with pytest.raises(ZeroDivisionError):
        saved.export(tmp_path / "out", progress=lambda done, total: 1 / 0)
    with pytest.raises(zero1.AbortedError, match="stopped"):
        saved.export(tmp_path / "out", progress=lambda done, total: True)
    assert sorted(os.listdir(tmp_path)) == before
    told = []
    saved.export(tmp_path / "out", progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] > 0
    with pytest.raises(zero1.IOError, match="model.safetensors: is there already"):
        saved.export(tmp_path / "out")
    for file in pathlib.Path(saved.path).glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(zero1.CorruptError, match="rank-00000"):
        saved.export(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_control_c_ends_an_export(saved, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        saved.export(tmp_path / "out", progress=lambda done, total: signal.raise_signal(signal.SIGINT))
    assert not (tmp_path / "out").exists()


# ---- by the reader of the format's own authors ----


@needs_safetensors
def test_safetensors_reads_an_export(saved, tmp_path):
    import safetensors

    saved.export(tmp_path / "out", max_bytes=48)
    saved.export(tmp_path / "out", "exp_avg")
    names = set()
    for path in (tmp_path / "out").glob("model*.safetensors"):
        with safetensors.safe_open(path, framework="numpy") as file:
            assert file.metadata() == {"format": "pt"}
            for name in file.keys():
                assert file.get_slice(name).get_dtype() == ("F32" if saved.param_dtype == "fp32" else "BF16")
                assert tuple(file.get_slice(name).get_shape()) == saved[name].shape
        for name, tensor in safetensors.deserialize(path.read_bytes()):
            assert bytes(tensor["data"]) == saved[name].tobytes()
            names.add(name)
    assert names == set(saved)
    with safetensors.safe_open(tmp_path / "out" / "exp_avg.safetensors", framework="numpy") as file:
        assert file.metadata()["state"] == "exp_avg" and set(file.keys()) == set(SHAPES)
        for name in SHAPES:
            numpy.testing.assert_array_equal(file.get_tensor(name), saved.read(name, "exp_avg"))


@needs_safetensors
def test_safetensors_reads_the_files_of_a_rank(saved):
    import safetensors

    states = {}
    for name in saved.files:
        with safetensors.safe_open(os.path.join(saved.path, name), framework="numpy") as file:
            assert file.metadata() == {"format": "zero1"}
            for key in file.keys():
                if saved.param_dtype == "fp32" or not key.startswith("table."):  # NumPy has no bf16
                    states[key] = file.get_tensor(key)
    assert states.pop("table.param[0:6]", numpy.full(6, 1 / 3, numpy.float32)).tolist() == pytest.approx([1 / 3] * 6)
    assert len(states) == 9
    for key, tensor in states.items():
        param, state = key.split("[")[0].rsplit(".", 1)
        assert key.endswith(f"[0:{tensor.size}]")
        assert (tensor == saved.read(param, state).ravel()).all()
