"""Puts libzero1.so beside the package: that of ZERO1_LIBRARY, that of the checkout's build folder, or
one that CMake builds now, with the options in CMAKE_ARGS. Where there is none of these, the package looks
for the system's."""

import os
import pathlib
import re
import shlex
import shutil
import subprocess

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.dist import Distribution

ROOT = pathlib.Path(__file__).resolve().parent.parent


def version() -> str:
    text = (pathlib.Path(__file__).resolve().parent / "zero1" / "_library.py").read_text()
    number = int(re.search(r"^VERSION = (\d+)$", text, re.M)[1])
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def built_library(folder: pathlib.Path) -> pathlib.Path | None:
    """The library that is there, or the one that is built in `folder`."""
    if os.environ.get("ZERO1_LIBRARY"):
        return pathlib.Path(os.environ["ZERO1_LIBRARY"])
    if (ROOT / "build" / "libzero1.so").exists():
        return ROOT / "build" / "libzero1.so"
    if not (ROOT / "CMakeLists.txt").exists() or not shutil.which("cmake"):
        return None
    options = [f"-DZERO1_BUILD_{part}=OFF" for part in ("TESTS", "EXAMPLES", "BENCHMARKS")]
    options += shlex.split(os.environ.get("CMAKE_ARGS", ""))
    subprocess.run(["cmake", "-S", ROOT, "-B", folder, "-DCMAKE_BUILD_TYPE=Release", *options], check=True)
    subprocess.run(["cmake", "--build", folder, "--target", "zero1", "--parallel", str(os.cpu_count() or 1)],
                   check=True)
    return folder / "libzero1.so"


class BuildWithLibrary(build_py):
    def run(self) -> None:
        super().run()
        library = built_library(pathlib.Path(self.get_finalized_command("build").build_temp) / "zero1")
        if library and not self.editable_mode:
            shutil.copyfile(library, pathlib.Path(self.build_lib) / "zero1" / "libzero1.so")


class PlatformWheel(bdist_wheel):
    """Of this platform, for the library; of any Python."""

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


class WithLibrary(Distribution):
    def has_ext_modules(self) -> bool:
        return True


setup(version=version(), distclass=WithLibrary,
      cmdclass={"build_py": BuildWithLibrary, "bdist_wheel": PlatformWheel})
