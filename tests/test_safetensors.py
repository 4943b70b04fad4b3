"""A file with a header of csrc/safetensors.c, as the reader of the format's own authors sees it."""

import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ.get("ZERO1_BUILD", ROOT / "build"))
PROGRAM = BUILD / "tests" / "test_safetensors"

np = pytest.importorskip("numpy")
safetensors = pytest.importorskip("safetensors")

ODD_NAME = 'a"b\\c\n\t\x01\x7f/\u00e9\u20ac\U0001f40e'


@pytest.mark.skipif(not PROGRAM.exists(), reason=f"{PROGRAM} is not built")
def test_the_authors_reader_sees_what_was_written(tmp_path):
    path = tmp_path / "file.safetensors"
    subprocess.run([PROGRAM, path], check=True, timeout=60)
    with safetensors.safe_open(path, framework="numpy") as file:
        assert file.metadata() == {"format": "zero1", "note": '"\\\n\u00e9'}
        assert set(file.keys()) == {ODD_NAME, "half", "none"}
        assert np.array_equal(file.get_tensor(ODD_NAME), np.arange(6.0).reshape(2, 3))
        assert file.get_tensor(ODD_NAME).dtype == np.float32
        assert file.get_tensor("none").shape == (0,)
        assert file.get_slice("half").get_dtype() == "BF16"
        assert file.get_slice("half").get_shape() == [2]
    assert path.read_bytes()[-4:] == b"\x80\x3f\x00\xc0"
