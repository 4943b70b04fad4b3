"""The package's idea of the C headers: sizes and offsets of every struct, every status, every call, every constant."""

import ctypes
import os
import re
import shutil
import subprocess
import sys

import pytest

from python_case import ROOT, needs_library
import zero1
from zero1 import _arguments, _library, _saving, _structs, dtypes, errors

HEADERS = [ROOT / "include" / "zero1" / name for name in ("status.h", "comm.h", "zero1.h", "checkpoint.h")]
TEXT = "\n".join(path.read_text() for path in HEADERS)

pytestmark = needs_library


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


# ---- calls ----

#: Calls that have no Python form, and why.
WITHOUT_A_FORM = {"group_init": "the defaults of zero1.Group are its own: a test compares them with C's"}

NUMBERS = {"int32_t": ctypes.c_int32, "int64_t": ctypes.c_int64, "uint32_t": ctypes.c_uint32,
           "uint64_t": ctypes.c_uint64, "size_t": ctypes.c_size_t, "double": ctypes.c_double,
           "zero1_status": ctypes.c_int32}
FUNCTIONS = {"zero1_allgather_fn": _library.ALLGATHER, "zero1_progress_fn": _library.PROGRESS}


def declarations() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """What the headers declare: the returned type, and type and name of each parameter."""
    code = re.sub(r"/\*.*?\*/", " ", TEXT, flags=re.S)
    found = {}
    for result, name, listed in re.findall(r"ZERO1_API\s+([\w\s*]+?)zero1_(\w+)\(([^)]*)\);", code):
        params = [] if listed.strip() == "void" else [re.fullmatch(r"(.*?)(\w+)", param.strip(), re.S).groups()
                                                      for param in listed.split(",")]
        found[name] = (" ".join(result.split()), [("".join(kind.split()), param) for kind, param in params])
    return found


def kind_of(c: str) -> object:
    """The type of ctypes that a parameter of C takes: "constzero1_config*". Handles and memory are addresses."""
    plain = c.removeprefix("const")
    if plain in NUMBERS | FUNCTIONS:
        return (NUMBERS | FUNCTIONS)[plain]
    if plain in ("char*", "void*", "float*"):
        return ctypes.c_char_p if c == "constchar*" else ctypes.c_void_p
    if plain.endswith("**"):
        return ctypes.POINTER(ctypes.c_char_p if plain == "char**" else ctypes.c_void_p)
    pointed = plain.removesuffix("*")
    if pointed in NUMBERS | _structs.BY_NAME:
        return ctypes.POINTER((NUMBERS | _structs.BY_NAME)[pointed])
    assert pointed in ("zero1_comm", "zero1_optimizer", "zero1_checkpoint"), c
    return ctypes.c_void_p


def declared() -> dict[str, tuple[object, list[object]]]:
    return {name: (ctypes.c_int32, arguments) for name, arguments in _library.STATUS_CALLS.items()} \
        | _library.OTHER_CALLS


def test_every_call_of_the_headers_is_declared():
    assert len(declarations()) == TEXT.count("\nZERO1_API ")
    assert set(declarations()) == set(declared())
    assert set(WITHOUT_A_FORM) <= set(declared())


@pytest.mark.parametrize("name", sorted(declarations()))
def test_a_call_is_declared_with_the_types_and_names_of_the_headers(name):
    result, params = declarations()[name]
    returned, arguments = declared()[name]
    assert returned == {"void": None, "const char *": ctypes.c_char_p}.get(result, NUMBERS.get(result))
    assert (result == "zero1_status") == (name in _library.STATUS_CALLS)
    assert len(arguments) == len(params)
    for argument, (kind, param) in zip(arguments, params):
        assert _library.kind_of(argument) == kind_of(kind), param
        if isinstance(argument, _arguments.Argument):
            assert argument.name == param
    assert _library.library()["zero1_" + name]  # exported


def test_every_call_is_used_by_the_package():
    package = "\n".join(path.read_text() for path in (ROOT / "python" / "zero1").glob("*.py")
                        if path.name != "_library.py")
    package += (ROOT / "python" / "zero1" / "_library.py").read_text().split("def candidates")[1]
    by_noun = {"comm_destroy", "comm_last_error", "optimizer_destroy", "optimizer_last_error",
               "checkpoint_close", "checkpoint_last_error"}  # of the handle: _handle.py
    by_kind = {f"{kind}_options_init" for kind in re.findall(r'options_of\(\s*"(\w+)"', package)}
    unused = {call for call in declared() if not re.search(rf'"{call}"|zero1_{call}\b', package)}
    assert unused <= by_noun | by_kind | set(WITHOUT_A_FORM) and set(WITHOUT_A_FORM) <= unused


CONSTANTS = [("DTYPE", dtypes.DTYPES), ("WIRE", dtypes.WIRES), ("DEVICE", dtypes.DEVICES),
             ("STATE", zero1.checkpoint.STATES), ("SAVE", _saving.MODES),
             ("SKIP", {name: number for number, name in enumerate(zero1.results.SKIP_REASONS)}),
             ("PARAM", {"FROZEN": zero1.FROZEN, "NOT_IN_NORM": zero1.NOT_IN_NORM})]


@pytest.mark.parametrize("prefix, ours", CONSTANTS)
def test_the_words_stand_for_the_numbers_of_the_headers(prefix, ours):
    theirs = {name.lower(): int(value) for name, value in re.findall(rf"\bZERO1_{prefix}_(\w+) = (\d+)", TEXT)}
    theirs = {"memory" if name == "as_in_memory" else name: value for name, value in theirs.items()}
    assert {name.lower(): value for name, value in ours.items()} == theirs


def test_importing_it_loads_no_library_and_starts_nothing():
    program = """import sys, zero1
assert not {"torch", "mpi4py", "safetensors"} & set(sys.modules), sys.modules
assert "libzero1" not in open("/proc/self/maps").read()"""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "python")}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


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
