"""The command zero1: what it prints of checkpoints, what it exits with, what it exports."""

import fcntl
import json
import os
import pathlib
import pty
import resource
import shutil
import signal
import struct
import subprocess

import numpy
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ.get("ZERO1_BUILD", ROOT / "build"))
COMMAND, MAKER = BUILD / "bin" / "zero1", BUILD / "tests" / "make_checkpoints"
FINE, DIFFERS, USAGE, FAILED = 0, 1, 2, 3

pytestmark = pytest.mark.skipif(not COMMAND.exists() or not MAKER.exists(),
                                reason="the command or make_checkpoints is not built")

# Of make_checkpoints, in the order of registration.
SHAPES = {"embed.weight": (300, 7), "layers.0.weight": (64, 48), "layers.0.bias": (48,),
          "empty": (0, 4), "scale": (), 'caf\u00e9 "\\\x1b': (1000, 3)}
STEP = "step-{:012d}".format


def run(*arguments, code: int = FINE, **options) -> subprocess.CompletedProcess:
    command = [str(COMMAND), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def ckpt(*arguments, **options) -> str:
    return run("ckpt", *arguments, **options).stdout


def refused(*arguments, code: int = FAILED, **options) -> str:
    return run("ckpt", *arguments, code=code, **options).stderr


def make(root: pathlib.Path, ranks: int = 2, steps: int = 6, every: int = 2, dtype: str = "fp32",
         shift: int = 0) -> pathlib.Path:
    values = root.parent / (root.name + ".values")
    command = [MAKER, root, ranks, steps, every, dtype, shift, values]
    subprocess.run(list(map(str, command)), check=True, timeout=60)
    return root


@pytest.fixture(scope="module", name="made")
def fixture_made(tmp_path_factory) -> pathlib.Path:
    """Roots that tests only read."""
    folder = tmp_path_factory.mktemp("made")
    make(folder / "fp32")
    make(folder / "again")
    make(folder / "three", ranks=3)
    make(folder / "bf16", dtype="bf16")
    make(folder / "int8", dtype="int8")
    make(folder / "shifted", shift=1)
    return folder


@pytest.fixture(name="root")
def fixture_root(made, tmp_path) -> pathlib.Path:
    """A root that a test may change."""
    shutil.copytree(made / "fp32", tmp_path / "root", symlinks=True)
    return tmp_path / "root"


def damage(root: pathlib.Path, step: int) -> pathlib.Path:
    path = sorted((root / STEP(step)).glob("*.safetensors"))[0]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return path


# ---- ls ----

def test_ls_lists_the_steps_and_marks_the_latest(made):
    lines = ckpt("ls", made / "fp32").splitlines()
    assert lines[0].split() == ["STEP", "RANKS", "FILES", "SIZE", "AGE"]
    assert [line.split()[0] for line in lines[1:]] == ["2", "4", "6"]
    assert [line.endswith("latest") for line in lines] == [False, False, False, True]
    assert all(len(line) <= 80 for line in lines)


def test_ls_as_json_has_the_bytes_of_the_folders(made):
    listed = json.loads(ckpt("ls", made / "three", "--json"))
    assert [one["step"] for one in listed["checkpoints"]] == [2, 4, 6]
    for one in listed["checkpoints"]:
        folder = pathlib.Path(one["path"])
        assert one["ranks"] == 3 and one["files"] == 3
        assert one["bytes"] == sum(path.stat().st_size for path in folder.iterdir())
        assert one["latest"] == (one["step"] == 6)
        assert one["modified"] == int((folder / "manifest.json").stat().st_mtime)


def test_ls_tells_of_a_damaged_manifest_and_lists_the_others(root):
    manifest = root / STEP(4) / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"count"', '"cuont"'))
    done = run("ckpt", "ls", root, code=DIFFERS)
    assert "damaged" in done.stdout.splitlines()[2] and "latest" in done.stdout.splitlines()[3]
    assert str(manifest) in done.stderr
    done = run("ckpt", "ls", root, "--json", code=DIFFERS)
    assert ["error" in one for one in json.loads(done.stdout)["checkpoints"]] == [False, True, False]


def test_ls_of_a_root_without_one_is_empty(tmp_path):
    done = run("ckpt", "ls", tmp_path)
    assert done.stdout == "" and "no checkpoint in it" in done.stderr
    assert json.loads(ckpt("ls", tmp_path, "--json"))["checkpoints"] == []


# ---- show ----

def test_show_has_all_of_a_checkpoint_as_json(made):
    shown = json.loads(ckpt("show", made / "bf16", "--json"))
    assert (shown["count"], shown["attempts"], shown["world_size"]) == (6, 6, 2)
    assert shown["param_dtype"] == "BF16" and shown["has_residual"] is False
    assert shown["grad_scale"] == 0.5 and shown["max_grad_norm"] == 1
    assert [group["lr"] for group in shown["groups"]] == [0.001, 0.0125]
    assert shown["metadata"] == {"data": "768", "random": "r" * 300}
    assert shown["rank_metadata"] == [{"sampler": "rank 0"}, {"sampler": "rank 1"}]
    params = {param["name"]: param for param in shown["parameters"]}
    assert {name: tuple(param["shape"]) for name, param in params.items()} == SHAPES
    assert params["layers.0.bias"]["group"] == 1 and params["layers.0.bias"]["numel"] == 48
    assert [name for name in params if params[name]["frozen"]] == ["scale"]
    names = {path.name for path in (made / "bf16" / STEP(6)).glob("*.safetensors")}
    assert {file["name"] for file in shown["files"]} == names


def test_show_fits_80_columns_and_no_name_moves_the_cursor(made):
    text = ckpt("show", made / "int8")
    assert all(len(line) <= 80 for line in text.splitlines()), text
    assert "\x1b" not in text and 'caf\u00e9 "\\\\x1b' in text
    assert "... (300 bytes)" in text and "residuals of 8-bit gradients" in text
    assert "6 parameters with 8221 elements, 1 of them frozen" in text


def test_show_of_a_checkpoint_is_that_one_and_of_a_root_its_latest(made):
    assert ckpt("show", made / "fp32" / STEP(2)).startswith(f"{made}/fp32/{STEP(2)}\n")
    assert ckpt("show", made / "fp32").startswith(f"{made}/fp32/{STEP(6)}\n")


# ---- verify ----

def test_verify_says_what_is_fine_and_how_fast_it_was_read(made):
    text = ckpt("verify", made / "fp32", made / "bf16" / STEP(2), "--threads", 2)
    lines = text.splitlines()
    assert lines[0].startswith(f"{made}/fp32/{STEP(6)}: fine: ") and lines[0].endswith("/s")
    assert lines[1].startswith(f"{made}/bf16/{STEP(2)}: fine: ")
    assert len(ckpt("verify", "--all", made / "int8").splitlines()) == 3


def test_verify_names_what_is_damaged_and_goes_on(root):
    path = damage(root, 2)
    done = run("ckpt", "verify", "--all", root, code=DIFFERS)
    assert str(path) in done.stderr and done.stdout.count(": fine: ") == 2
    (root / STEP(4) / path.name).unlink()
    done = run("ckpt", "verify", "--all", root, code=DIFFERS)
    assert f"{root}/{STEP(4)}/{path.name}" in done.stderr and done.stdout.count(": fine: ") == 1
    done = run("ckpt", "verify", root / "none", root / STEP(2), code=DIFFERS)  # damage tells more
    assert "no such folder" in done.stderr


def test_verify_draws_nothing_where_there_is_no_terminal(made):
    assert run("ckpt", "verify", made / "fp32").stderr == ""


# ---- diff ----

def test_diff_of_the_same_state_says_so(made):
    assert ckpt("diff", made / "fp32", made / "again").endswith("\nthe same\n")
    assert ckpt("diff", made / "int8", made / "int8").endswith("\nthe same\n")


def test_diff_counts_elements_and_says_how_far_they_are_apart(made):
    text = ckpt("diff", made / "shifted" / STEP(2), made / "fp32" / STEP(2), code=DIFFERS)
    rows = [line.split() for line in text.splitlines()]
    largest = {row[0]: float(row[-1]) for row in rows if row[1:2] in (["master_param"], ["param"])}
    assert largest.keys() >= {"embed.weight", "layers.0.weight", "layers.0.bias", "scale"}
    assert largest["scale"] == 1 and abs(largest["embed.weight"] - 1) < 0.01
    assert ["scale", "param", "1", "1", "1"] in rows
    assert ["embed.weight", "master_param", "2100", "2100"] in [row[:4] for row in rows]
    assert "exp_avg" not in text  # gradients do not depend on where parameters are


def test_diff_names_what_differs_of_counts_and_metadata(made):
    text = ckpt("diff", made / "fp32" / STEP(2), made / "fp32" / STEP(4), code=DIFFERS)
    rows = [line.split() for line in text.splitlines()]
    assert ["updates", "2", "4"] in rows and ["metadata", "data", "'256'", "'512'"] in rows
    assert all(len(line) <= 80 for line in text.splitlines() if not line.startswith(("A ", "B ")))


def test_diff_of_residuals_names_the_rank(made):
    text = ckpt("diff", made / "int8" / STEP(2), made / "int8" / STEP(4), code=DIFFERS)
    assert "residual of rank 1" in text
    text = ckpt("diff", made / "fp32", made / "int8", code=DIFFERS)
    assert ["residuals", "no", "yes"] in [line.split() for line in text.splitlines()]
    assert "residual of" not in text


def test_diff_does_not_count_the_ranks(made):
    text = ckpt("diff", made / "fp32", made / "three", code=DIFFERS)
    assert "A was saved by 2 ranks, B by 3" in text and "grad_scale" in text
    assert "sampler" not in text


def test_diff_of_a_damaged_one_is_no_verdict_but_an_error(root, made):
    path = damage(root, 6)
    assert str(path) in refused("diff", root, made / "again", code=DIFFERS)


# ---- export ----

def read_safetensors(path: pathlib.Path) -> tuple[dict, dict]:
    """The metadata, and the tensors as fp32."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + length])
    assert (8 + length) % 8 == 0
    metadata, tensors, end = header.pop("__metadata__"), {}, 0
    for name, entry in header.items():
        assert entry["data_offsets"][0] == end  # without holes
        end = entry["data_offsets"][1]
        raw = data[8 + length + entry["data_offsets"][0]:8 + length + end]
        if entry["dtype"] == "BF16":
            bits = numpy.frombuffer(raw, "<u2").astype("<u4") << 16
            tensors[name] = bits.view("<f4").reshape(entry["shape"])
        else:
            assert entry["dtype"] == "F32"
            tensors[name] = numpy.frombuffer(raw, "<f4").reshape(entry["shape"])
    assert 8 + length + end == len(data)
    return metadata, tensors


def values_of(root: pathlib.Path, is_bf16: bool) -> dict:
    """What make_checkpoints had in memory."""
    data = (root.parent / (root.name + ".values")).read_bytes()
    flat = numpy.frombuffer(data, "<u2" if is_bf16 else "<f4")
    if is_bf16:
        flat = (flat.astype("<u4") << 16).view("<f4")
    values, at = {}, 0
    for name, shape in SHAPES.items():
        numel = int(numpy.prod(shape))
        values[name] = flat[at:at + numel].reshape(shape)
        at += numel
    assert at == len(flat)
    return values


def same(left: dict, right: dict) -> bool:
    return left.keys() == right.keys() and all(
        left[name].shape == right[name].shape
        and numpy.array_equal(left[name].view("<u4"), right[name].view("<u4")) for name in left)


def rounded(values: dict) -> dict:
    """To bf16, to nearest even."""
    bits = {name: numpy.asarray(value).view("<u4") for name, value in values.items()}
    return {name: ((one + 0x7fff + (one >> 16 & 1)) & 0xffff0000).astype("<u4").view("<f4")
            for name, one in bits.items()}


def exported(*arguments) -> dict:
    ckpt("export", *arguments)
    metadata, tensors = read_safetensors(pathlib.Path(arguments[2]))
    assert metadata == {"format": "pt"}
    return tensors


@pytest.mark.parametrize("name", ["fp32", "three", "int8"])
def test_an_export_has_the_bits_of_the_parameters(made, tmp_path, name):
    tensors = exported(made / name, "-o", tmp_path / "x.safetensors")
    assert same(tensors, values_of(made / name, is_bf16=False))
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_an_export_of_bf16_has_them_and_in_fp32_the_masters(made, tmp_path):
    values = values_of(made / "bf16", is_bf16=True)
    assert same(exported(made / "bf16", "-o", tmp_path / "b.safetensors"), values)
    masters = exported(made / "bf16", "-o", tmp_path / "f.safetensors", "--dtype", "fp32")
    assert not same(masters, values) and same(rounded(masters), values)


def test_an_export_of_fp32_in_bf16_is_rounded_to_nearest_even(made, tmp_path):
    tensors = exported(made / "fp32", "-o", tmp_path / "x.safetensors", "--dtype", "bf16")
    assert same(tensors, rounded(values_of(made / "fp32", is_bf16=False)))


def test_a_folder_gets_one_file_or_several_with_an_index(made, tmp_path):
    values = values_of(made / "fp32", is_bf16=False)
    ckpt("export", made / "fp32", "-o", tmp_path / "one")
    assert os.listdir(tmp_path / "one") == ["model.safetensors"]
    assert same(read_safetensors(tmp_path / "one" / "model.safetensors")[1], values)
    ckpt("export", made / "fp32", "-o", tmp_path / "many", "--max-size", "12500B")
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    names = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert sorted(os.listdir(tmp_path / "many")) == [*names, "model.safetensors.index.json"]
    assert index["metadata"] == {"total_size": sum(value.nbytes for value in values.values())}
    assert index["weight_map"].keys() == values.keys()
    tensors = {}
    for name in names:
        metadata, some = read_safetensors(tmp_path / "many" / name)
        assert metadata == {"format": "pt"}
        assert all(index["weight_map"][tensor] == name for tensor in some)
        assert sum(tensor.nbytes for tensor in some.values()) <= 12500
        tensors |= some
    assert same(tensors, values)


def test_a_tensor_beyond_the_size_has_a_file_to_itself(made, tmp_path):
    ckpt("export", made / "fp32", "-o", tmp_path / "x", "--max-size", 100)
    parts = [read_safetensors(path)[1] for path in (tmp_path / "x").glob("*.safetensors")]
    assert sorted(map(len, parts)) == [1, 1, 1, 1, 2]  # "empty" beside "scale"


def test_one_file_cannot_be_several(made, tmp_path):
    text = refused("export", made / "fp32", "-o", tmp_path / "x.safetensors", "--max-size", "10KB")
    assert "give a folder" in text and os.listdir(tmp_path) == []


def test_nothing_is_overwritten_without_force(made, tmp_path):
    file, folder = tmp_path / "x.safetensors", tmp_path / "x"
    file.write_text("mine")
    assert f"{file}: is there already: force" in refused("export", made / "fp32", "-o", file)
    assert file.read_text() == "mine"
    ckpt("export", made / "fp32", "-o", file, "--force")
    assert same(read_safetensors(file)[1], values_of(made / "fp32", is_bf16=False))
    ckpt("export", made / "fp32", "-o", folder, "--max-size", "10KB")
    (folder / "config.json").write_text("{}")
    assert "force replaces it" in refused("export", made / "fp32", "-o", folder)
    ckpt("export", made / "fp32", "-o", folder, "--force")  # of several files becomes one
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]
    ckpt("export", made / "fp32", "-o", folder, "--force", "--max-size", "21KB")
    assert sorted(os.listdir(folder)) == ["config.json", "model-00001-of-00002.safetensors",
                                          "model-00002-of-00002.safetensors",
                                          "model.safetensors.index.json"]


def limit_files():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))


def test_an_export_that_fails_leaves_what_was_there(made, root, tmp_path):
    folder, file = tmp_path / "x", tmp_path / "y.safetensors"
    ckpt("export", made / "bf16", "-o", folder)
    before = (folder / "model.safetensors").read_bytes()
    text = refused("export", made / "fp32", "-o", folder, "--force", preexec_fn=limit_files)
    assert "model.safetensors: writing failed: File too large" in text
    assert os.listdir(folder) == ["model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == before
    path = damage(root, 6)
    assert str(path) in refused("export", root, "-o", file, code=DIFFERS)
    assert str(path) in refused("export", root, "-o", tmp_path / "new", code=DIFFERS)
    assert not file.exists() and not (tmp_path / "new").exists()
    assert not list(tmp_path.glob(".*"))


def test_the_reader_of_safetensors_reads_an_export(made, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    ckpt("export", made / "fp32", "-o", tmp_path / "x.safetensors")
    tensors = safetensors.load_file(tmp_path / "x.safetensors")
    assert same(dict(tensors), values_of(made / "fp32", is_bf16=False))


# ---- prune ----

def test_prune_keeps_the_last_the_marked_and_the_latest(root):
    text = ckpt("prune", root, "--keep-last", 1, "--keep-every", 4, "--dry-run")
    assert f"would remove {root}/{STEP(2)} (" in text and "2 of 3 checkpoints would stay" in text
    assert (root / STEP(2)).exists()
    text = ckpt("prune", root, "--keep-last", 1, "--keep-every", 4)
    assert f"removed {root}/{STEP(2)} (" in text and "2 of 3 checkpoints stay" in text
    assert sorted(os.listdir(root)) == ["latest", STEP(4), STEP(6)]
    (root / "latest").unlink()
    (root / "latest").symlink_to(STEP(4))  # a run that went back
    assert "2 of 2 checkpoints stay" in ckpt("prune", root, "--keep-last", 1)


def test_prune_removes_a_damaged_one_too(root):
    (root / STEP(2) / "manifest.json").write_text("{")
    assert f"removed {root}/{STEP(2)} (damaged)" in ckpt("prune", root, "--keep-last", 2)


def test_prune_waits_for_no_job_that_saves_there(root):
    with open(root / ".lock", "w", encoding="utf-8") as lock:
        lock.write('{"host":"there","pid":7,"since":"2026-01-02 03:04:05 UTC"}\n')
        lock.flush()
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        text = refused("prune", root, "--keep-last", 1)
        assert (f"{root} is in use by process 7 on host there since 2026-01-02 03:04:05 UTC "
                f"({root}/.lock)") in text
        assert "would remove" in ckpt("prune", root, "--keep-last", 1, "-n")
        assert (root / STEP(2)).exists()
        assert "removed" in ckpt("prune", root, "--keep-last", 1, "--no-lock")


# ---- arguments ----

@pytest.mark.parametrize("verb", ["ls", "show", "verify", "diff", "export", "prune"])
def test_every_verb_has_help_and_refuses_what_it_does_not_know(verb):
    text = ckpt(verb, "--help")
    assert text.startswith(f"usage: zero1 ckpt {verb} ") and "Exits with 0: " in text
    assert all(len(line) <= 90 for line in text.splitlines())
    for arguments in [("--unknown",), (), ("a", "b", "c") if verb != "verify" else ("-x",)]:
        assert f"zero1 ckpt {verb} --help tells more" in refused(verb, *arguments, code=USAGE)


@pytest.mark.parametrize("arguments", [
    ("verify", "x", "--threads", "0"), ("verify", "x", "--threads", "two"),
    ("export", "x"), ("export", "x", "-o", "y", "--dtype", "fp16"),
    ("export", "x", "-o", "y", "--max-size", "0"), ("export", "x", "-o", "y", "--max-size", "5GX"),
    ("export", "x", "-o", "y", "--max-size", "9999999TB"),
    ("prune", "x"), ("prune", "x", "--keep-last", "0"),
    ("prune", "x", "--keep-last", "1", "--keep-every", "-1")])
def test_wrong_values_are_named(arguments):
    assert f"zero1 ckpt {arguments[0]}: " in refused(*arguments, code=USAGE)


def test_the_command_itself_has_help_and_a_version():
    assert "usage: zero1 ckpt VERB" in run("--help").stdout
    assert run("ckpt", "--help").stdout == run("--help").stdout
    assert run("--version").stdout.startswith("zero1 ")
    for arguments in [(), ("ckpt",), ("ckpt", "nothing"), ("nothing",)]:
        assert run(*arguments, code=USAGE).stdout == ""


@pytest.mark.parametrize("arguments", [("ls",), ("show",), ("verify",), ("verify", "--all"),
                                       ("export", "-o", "x.safetensors"),
                                       ("prune", "--keep-last", "1")])
def test_what_is_not_there_is_not_found(tmp_path, arguments):
    text = refused(*arguments, tmp_path / "none", cwd=tmp_path)
    assert str(tmp_path / "none") in text and os.listdir(tmp_path) == []
    (tmp_path / "file").write_text("x")
    assert "is a file, not a folder" in refused(*arguments, tmp_path / "file", cwd=tmp_path)


def test_output_that_cannot_be_written_is_a_failure(made):
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run([str(COMMAND), "ckpt", "ls", str(made / "fp32")], stdout=full,
                              stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == FAILED and "No space left on device" in done.stderr


def test_a_terminal_is_left_as_it_was(made):
    ours, theirs = pty.openpty()
    done = subprocess.run([str(COMMAND), "ckpt", "verify", str(made / "fp32")], stderr=theirs,
                          stdout=subprocess.PIPE, timeout=60, check=False)
    os.close(theirs)
    drawn = os.read(ours, 10000).decode()
    os.close(ours)
    assert done.returncode == FINE and drawn.endswith("\r\x1b[K")
