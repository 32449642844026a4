"""The headers of numbers shared by C, Cython and Python: all are read, and no number stands
twice.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import kvmxen
from kvmxen.xen.abi import headers, io, x86, xen

ROOT = Path(kvmxen.__file__).parent
TESTS = Path(__file__).parents[3]
SHARED = {"io": io, "x86": x86, "xen": xen}
HEADERS = (*sorted((ROOT / "xen" / "abi").glob("*.h")), ROOT / "pv" / "shim" / "abi.h")
SOURCES = sorted(
    path
    for folder in (ROOT, TESTS / "guests", TESTS / "e2e", TESTS.parent / "benchmarks")
    for path in folder.rglob("*")
    if path.suffix in {".c", ".h", ".S", ".ld", ".py", ".pyx", ".pxd"}
    and path.parent != ROOT / "xen" / "abi"
)

_COMMENT = re.compile(r"/\*.*?\*/|#(?!\s*(?:define|include)\b)[^\n]*", re.DOTALL)
_STRING = re.compile(r'"""(?:.*?)"""', re.DOTALL)
_EXPRESSION = r"\(?-?(?:0x[0-9a-fA-F_]+|\d[\d_]*)(?:[uU]?[lL]{0,2})[\s\d<|()xul]*"
_DEFINITION = re.compile(
    rf"^\s*#\s*define\s+(\w+)\s+({_EXPRESSION})$|(?<![.\w])(\w+)\s*=\s*({_EXPRESSION})(?=$|;|,|\}})",
    re.MULTILINE,
)
_LITERAL = re.compile(r"(?<![\w.])0x[0-9a-fA-F_]{7,}(?=\b|[uUlL])")


def value_of(expression: str) -> int | None:
    """The value of a constant expression of numbers, shifts and ors."""
    try:
        tree = ast.parse(re.sub(r"(?<=[0-9a-f])[uUlL]+\b", "", expression).strip(), mode="eval")
        return int(eval(compile(tree, "", "eval"), {"__builtins__": {}}))
    except (SyntaxError, TypeError, ValueError):
        return None


def definitions(text: str) -> Iterator[tuple[str, int]]:
    """The names that `text` (C, Cython or Python) defines as literal numbers."""
    code = _COMMENT.sub("", _STRING.sub("", text))
    for match in _DEFINITION.finditer(code):
        value = value_of(match[2] or match[4])
        if value is not None:
            yield match[1] or match[3], value
    # Several at once: a, b = 1, 2
    for match in re.finditer(
        rf"^(\w+(?:, \w+)+) = ({_EXPRESSION}(?:, {_EXPRESSION})+)$", code, re.M
    ):
        for name, number in zip(match[1].split(", "), match[2].split(", "), strict=True):
            yield name, int(value_of(number) or 0)


def second_homes(text: str, numbers: dict[str, int]) -> list[str]:
    """The `numbers` that the source `text` defines again: by name; by the name without its
    first word, if it does so with several; or by a literal that means nothing else."""
    named = {name.lower(): value for name, value in numbers.items()}
    short = {name.partition("_")[2]: value for name, value in named.items() if "_" in name}
    found, doubtful = [], []
    for name, value in definitions(text):
        bare = re.sub(r"^_+", "", name.lower())
        if value == named.get(bare):
            found.append(name)
        elif value in (short.get(bare), short.get(bare.partition("_")[2])):
            doubtful.append(name)
    found += doubtful if len(doubtful) > 1 else []
    # A power of two may mean anything.
    large = {value for value in numbers.values() if value & value - 1}
    code = _COMMENT.sub("", text)
    return found + [match[0] for match in _LITERAL.finditer(code) if int(match[0], 16) in large]


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: header.stem)
def test_every_line_of_a_header_is_understood(header: Path) -> None:
    defines = re.findall(r"^\s*#\s*define\s+(\w+)", header.read_text(), re.MULTILINE)
    assert list(headers.constants(header)) == defines
    assert len(set(defines)) == len(defines) > 0


@pytest.mark.parametrize("module", SHARED.values())
def test_a_module_has_the_numbers_of_its_header(module: ModuleType) -> None:
    numbers = headers.constants(Path(str(module.__file__)).with_suffix(".h"))
    assert numbers.items() <= vars(module).items()


def names_asked_for(code: str) -> Iterator[tuple[ModuleType, str]]:
    """Each attribute that `code` uses of a module with a header's numbers."""
    tree = ast.parse(code)
    imported = {
        alias.asname or alias.name: SHARED[alias.name]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "kvmxen.xen.abi"
        for alias in node.names
        if alias.name in SHARED
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = imported.get(node.value.id)
            if module:
                yield module, node.attr


def test_every_name_that_is_asked_for_is_in_its_header() -> None:
    """mypy accepts any name as one of a header's."""
    asked = {
        (module, name)
        for path in SOURCES
        if path.suffix == ".py"
        for module, name in names_asked_for(path.read_text())
    }
    assert (x86, "PTE_PRESENT") in asked
    assert [name for module, name in asked if not hasattr(module, name)] == []


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: header.stem)
def test_a_headers_numbers_stand_nowhere_else(header: Path) -> None:
    numbers = headers.constants(header)
    others = (path for path in SOURCES if path != header)
    found = {str(path): second_homes(path.read_text(), numbers) for path in others}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "line",
    [
        "#define PTE_USER 0x4ul",
        "#define PTE_FRAME 0x000ffffffffff000ul",
        "cdef uint64_t USER = 0x4\ncdef uint64_t WRITE = 2",
        "_PRESENT, _WRITE, _USER = 1, 2, 4",
        "_USER = 1 << 2; WRITE = 1 << 1",
        "enum { user = 4, WRITE = 2 };",
        "    PTE_USER = 4,",
        "value & 0x000FFFFFFFFFF000",
        "fd.set_msr(0xC0000100, 0)",
    ],
)
def test_a_second_home_is_found(line: str) -> None:
    numbers = {
        "PTE_USER": 4,
        "PTE_FRAME": 0xFFFFFFFFFF000,
        "PTE_WRITE": 2,
        "MSR_FS_BASE": 0xC0000100,
    }
    assert second_homes(f"\n{line}\n", numbers)


@pytest.mark.parametrize(
    "line",
    [
        "_USER = 1 << 47",
        "USER = x86.PTE_USER",
        "#define USER PTE_USER",
        "/* PTE_USER = 4 */",
        "vcpu.user = 4",
        "#define SPUSER 4",
        "USER = 4",
    ],
)
def test_something_else_is_none(line: str) -> None:
    assert second_homes(f"\n{line}\n", {"PTE_USER": 4}) == []
