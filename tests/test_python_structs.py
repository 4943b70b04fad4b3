"""The package's idea of the C headers: sizes and offsets of every struct, every status, every call."""

import ctypes
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "python"))
os.environ.setdefault("ZERO1_LIBRARY", str(ROOT / "build" / "libzero1.so"))

import zero1
from zero1 import _library, _structs, errors

HEADERS = [ROOT / "include" / "zero1" / name for name in ("status.h", "comm.h", "zero1.h", "checkpoint.h")]
TEXT = "\n".join(path.read_text() for path in HEADERS)

pytestmark = pytest.mark.skipif(not pathlib.Path(os.environ["ZERO1_LIBRARY"]).exists(),
                                reason="libzero1.so is not built")


@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")
def test_structs_are_laid_out_as_in_c(tmp_path):
    lines, expected = [], []
    for name, struct in _structs.BY_NAME.items():
        lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
        expected.append(f"{name} {ctypes.sizeof(struct)}")
        for field, _ in struct._fields_:
            size = f"sizeof((({name} *)0)->{field})"
            lines.append(f'printf("{name}.{field} %zu %zu\\n", offsetof({name}, {field}), {size});')
            place = getattr(struct, field)
            expected.append(f"{name}.{field} {place.offset} {place.size}")
    source = tmp_path / "layout.c"
    source.write_text("#include <stddef.h>\n#include <stdio.h>\n#include <zero1/checkpoint.h>\n"
                      "int main(void) {\n" + "\n".join(lines) + "\nreturn 0;\n}\n")
    subprocess.run(["cc", f"-I{ROOT / 'include'}", source, "-o", tmp_path / "layout"], check=True)
    printed = subprocess.run([tmp_path / "layout"], capture_output=True, text=True, check=True)
    assert printed.stdout.splitlines() == expected


def test_no_struct_of_the_headers_is_left_out():
    assert set(re.findall(r"^} (zero1_\w+);", TEXT, re.M)) == set(_structs.BY_NAME)


def test_every_status_has_its_exception_with_its_name():
    listed = {int(value): name for name, value in re.findall(r"X\(ZERO1_ERR_(\w+), (-\d+),", TEXT)}
    assert listed.keys() == errors.CLASSES.keys()
    assert len(listed) == 18
    for value, name in listed.items():
        made = getattr(zero1, name.title().replace("_", "").replace("Io", "IO") + "Error")
        assert errors.CLASSES[value] is made and made.status == value
        raised = errors.error_of(value, "what is wrong")
        assert type(raised) is made and isinstance(raised, zero1.Error) and str(raised) == "what is wrong"


def test_a_status_of_a_newer_library_is_an_error_with_its_number():
    raised = errors.error_of(-99, "new")
    assert type(raised) is zero1.Error and raised.status == -99


def test_every_call_of_the_headers_is_declared():
    calls = set(re.findall(r"^ZERO1_API [^;(]*?\bzero1_(\w+)\(", TEXT, re.M))
    assert calls == set(_library.STATUS_CALLS) | set(_library.OTHER_CALLS)


def test_every_call_is_used_by_the_package():
    package = "\n".join(path.read_text() for path in (ROOT / "python" / "zero1").glob("*.py")
                        if path.name != "_library.py")
    package += (ROOT / "python" / "zero1" / "_library.py").read_text().split("def candidates")[1]
    handles = {"comm_destroy", "comm_last_error", "optimizer_destroy", "optimizer_last_error",
               "checkpoint_close", "checkpoint_last_error"}  # by the handle's noun
    inits = {"group_init"}  # its defaults are those of Group: a test compares them
    unused = {call for call in set(_library.STATUS_CALLS) | set(_library.OTHER_CALLS)
              if not re.search(rf'"{call}"|zero1_{call}\b', package)}
    assert unused <= handles | inits


def test_the_defaults_of_a_group_are_those_of_c():
    struct = _structs.Group()
    assert _library.library().zero1_group_init(ctypes.byref(struct), ctypes.sizeof(struct)) == 0
    assert zero1.Group() == zero1.results.group_of(struct)


def test_the_version_is_that_of_the_headers():
    assert int(re.search(r"#define ZERO1_VERSION (\d+)", TEXT)[1]) == _library.VERSION


def test_a_library_that_is_none_is_told_with_where_it_was_looked_for(tmp_path):
    program = "import zero1\ntry: zero1.Comm.self()\nexcept zero1.UnsupportedError as error: print(error)"
    environment = os.environ | {"ZERO1_LIBRARY": str(tmp_path / "none.so"), "PYTHONPATH": str(ROOT / "python")}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True,
                           check=True)
    assert "ZERO1_LIBRARY" in ended.stdout and "none.so" in ended.stdout


def has_setuptools() -> bool:
    return bool(importlib.util.find_spec("setuptools")
                and importlib.util.find_spec("setuptools.command.bdist_wheel"))


@pytest.mark.skipif(not has_setuptools(), reason="setuptools 70.1 or later is not installed")
def test_pip_installs_the_package_with_its_library(tmp_path):
    shutil.copytree(ROOT / "python", tmp_path / "python",
                    ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
                    "--no-build-isolation", "--target", tmp_path / "site", tmp_path / "python"], check=True,
                   capture_output=True)
    assert (tmp_path / "site" / "zero1" / "py.typed").exists()
    environment = {key: value for key, value in os.environ.items() if key != "ZERO1_LIBRARY"}
    program = "import zero1; print(zero1._library.library()._name, zero1.Comm.self().backend)"
    environment["PYTHONPATH"] = str(tmp_path / "site")
    ended = subprocess.run([sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True,
                           text=True, check=True)
    assert ended.stdout.split() == [str(tmp_path / "site" / "zero1" / "libzero1.so"), "self"]
