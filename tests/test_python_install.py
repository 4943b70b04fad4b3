"""pip: the package with its library in a virtual environment of its own, from a folder and from a wheel."""

import importlib.metadata
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import numpy
import pytest

from python_case import LIBRARY, ROOT, needs_library


def has_setuptools() -> bool:
    try:
        numbers = importlib.metadata.version("setuptools").split(".")
    except importlib.metadata.PackageNotFoundError:
        return False
    return (int(numbers[0]), int(numbers[1])) >= (70, 1)


pytestmark = [needs_library, pytest.mark.skipif(not importlib.util.find_spec("pip"), reason="pip is not installed"),
              pytest.mark.skipif(not has_setuptools(), reason="setuptools 70.1 or later is not installed: "
                                                              "scripts/python_deps setuptools")]

PROGRAM = "import zero1; print(zero1._library.library()._name, zero1.Comm.self().backend)"


@pytest.fixture
def source(tmp_path) -> pathlib.Path:
    """The package as a checkout has it, so that pip leaves nothing in ours."""
    shutil.copytree(ROOT / "python", tmp_path / "checkout" / "python",
                    ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    return tmp_path / "checkout" / "python"


@pytest.fixture
def python(tmp_path) -> pathlib.Path:
    """Of a new virtual environment, which has NumPy (that of these tests) and nothing else."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    numpy_site = pathlib.Path(numpy.__file__).resolve().parents[1]
    for name in os.listdir(numpy_site):
        if name.startswith("numpy"):
            (site / name).symlink_to(numpy_site / name)
    return tmp_path / "venv" / "bin" / "python"


def pip(*arguments: object, **environment: object) -> None:
    ended = subprocess.run([sys.executable, "-m", "pip", *map(str, arguments), "--disable-pip-version-check",
                            "--no-index", "--no-deps"], env=without_ours(**environment), capture_output=True,
                           text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def without_ours(**more: object) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in ("ZERO1_LIBRARY", "PYTHONPATH")} \
        | {key: str(value) for key, value in more.items()}


def wheel_of(source: pathlib.Path, **environment: object) -> pathlib.Path:
    folder = source.parent / "wheels"
    pip("wheel", "--no-build-isolation", "--wheel-dir", folder, source, **environment)
    (wheel,) = folder.glob("zero1-*.whl")
    return wheel


def printed(python: pathlib.Path, **environment: object) -> list[str]:
    ended = subprocess.run([python, "-c", PROGRAM], env=without_ours(**environment), cwd=python.parent,
                           capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.split()


def test_a_wheel_has_the_library_of_the_build_folder_and_finds_it(source, python):
    (source.parent / "build").mkdir()
    shutil.copy(LIBRARY, source.parent / "build" / "libzero1.so")
    wheel = wheel_of(source)
    assert wheel.name.startswith("zero1-") and "-py3-none-linux_" in wheel.name
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"zero1/py.typed", "zero1/libzero1.so"} <= names
    ours = {f"zero1/{path.relative_to(source / 'zero1')}" for path in (source / "zero1").rglob("*.py")}
    assert ours <= names and {name for name in names if name.endswith(".py")} == ours
    pip("--python", python, "install", wheel)
    beside = next(python.parents[1].glob("lib/python*/site-packages/zero1")) / "libzero1.so"
    assert printed(python) == [str(beside), "self"]
    assert printed(python, ZERO1_LIBRARY=LIBRARY) == [str(LIBRARY), "self"]  # it comes first


def test_a_wheel_takes_the_library_that_the_environment_names(source, python, tmp_path):
    named = tmp_path / "elsewhere.so"
    shutil.copy(LIBRARY, named)
    wheel = wheel_of(source, ZERO1_LIBRARY=named)
    named.unlink()
    pip("--python", python, "install", wheel)
    assert printed(python)[0].endswith("site-packages/zero1/libzero1.so")


def test_a_wheel_without_a_library_says_where_it_looked(source, python):
    wheel = wheel_of(source)  # there is nothing to build it from
    assert "zero1/libzero1.so" not in zipfile.ZipFile(wheel).namelist()
    pip("--python", python, "install", wheel)
    program = "import zero1\ntry: print(zero1.Comm.self())\nexcept zero1.UnsupportedError as error: print(error)"
    ended = subprocess.run([python, "-c", program], env=without_ours(), capture_output=True, text=True, check=True)
    # Unless the system has one.
    assert "ZERO1_LIBRARY" in ended.stdout and "libzero1.so.0" in ended.stdout or "rank 0 of 1" in ended.stdout


def test_pip_installs_the_folder_as_it_is(source, tmp_path):
    pip("install", "--no-build-isolation", "--target", tmp_path / "site", source, ZERO1_LIBRARY=LIBRARY)
    assert (tmp_path / "site" / "zero1" / "py.typed").exists()
    assert printed(pathlib.Path(sys.executable), PYTHONPATH=tmp_path / "site") == [
        str(tmp_path / "site" / "zero1" / "libzero1.so"), "self"]
