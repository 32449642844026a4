"""Imports run one way: the modules' knowledge of each other, read from the sources.

A unit is a module, a package, or modules that refer to each other. It may import itself and the
units of the layers below its own, but not its neighbours, nor those that it is kept from, not even
for annotations.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import kvmxen

LAYERS = (
    {"__main__"},
    {"cli"},
    {"domain", "doctor"},
    {"programs", "initramfs", "snippet"},
    {"run", "report", "control", "modules"},
    {"exceptions", "trace"},
    {"m2p"},
    {"emulate"},
    {"msrs", "ioports", "hypercall", "loader", "backends", "guests", "xenstored"},
    {"machine cpu"},
    {"balloon", "bounce"},
    {"paging", "probe"},
    {"features"},
    {"ring3"},
    {"gate", "maptrack"},
    {"events", "grants", "xenstore", "shim", "cpuid"},
    {"ring", "kvm", "vcpu"},
    {"memory", "config", "rundir"},
    {"layout", "runstate", "timer", "watchdog", "loop", "eventloop"},
    {"abi"},
    {"errors", "streams"},
)
RANK = {unit: rank for rank, layer in enumerate(LAYERS) for unit in layer}
# By dotted name under kvmxen.
UNITS = {name: unit for unit in RANK for name in unit.split()}

# The code at /dev/kvm and above; everything else is tested without it.
_MACHINERY = {"kvm", "vcpu", "gate", "machine cpu", "paging", "bounce", "shim"}
KEPT_FROM = {
    "backends": _MACHINERY,
    "xenstored": _MACHINERY,
    "control": _MACHINERY,
    "loader": _MACHINERY | {"events", "grants", "xenstore", "ring"},
}

_CYTHON = re.compile(
    r"^[ \t]*(?:from[ \t]+(?P<base>[.\w]+)[ \t]+c?import[ \t]+(?P<names>.+)"
    r"|c?import[ \t]+(?P<modules>.+))$",
    re.MULTILINE,
)


def modules_named(path: Path, root: Path) -> Iterator[str]:
    """The dotted names that the module at `path` imports."""
    package = (root.name, *path.relative_to(root).parent.parts)
    found = _from_python(path) if path.suffix in {".py", ".pyi"} else _from_cython(path)
    for base, names in found:
        name = base.lstrip(".")
        if level := len(base) - len(name):
            name = ".".join((*package[: len(package) - level + 1], *filter(None, [name])))
        yield from (f"{name}.{imported}" if imported else name for imported in names)


def _from_python(path: Path) -> Iterator[tuple[str, list[str]]]:
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, [""]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            yield "." * node.level + (node.module or ""), names


def _from_cython(path: Path) -> Iterator[tuple[str, list[str]]]:
    lines = re.sub(r"#.*", "", path.read_text())
    lines = re.sub(r"\(([^()]*)\)", lambda match: " ".join(match[1].split()), lines)
    for match in _CYTHON.finditer(lines):
        listed = match["names"] or match["modules"]
        names = [name.split()[0] for name in listed.split(",") if name.strip()]
        if match["base"]:
            yield match["base"], names
        else:
            yield from ((name, [""]) for name in names)


def wrong_imports(root: Path) -> list[str]:
    """A sentence for every import under the package folder `root` in the wrong direction."""
    wrong = []
    for path in sorted(root.rglob("*")):
        if path.suffix not in {".py", ".pyx", ".pxd", ".pyi"} or path == root / "__init__.py":
            continue
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        where = path.relative_to(root.parent)
        unit = unit_of(module)
        if unit is None:
            wrong.append(f"{where}: {module} is in no layer of {Path(__file__).name}")
            continue
        for imported in dict.fromkeys(modules_named(path, root)):
            top, _, rest = imported.partition(".")
            other = unit_of(rest)
            if top != root.name or other == unit or other is None:
                continue
            if RANK[other] <= RANK[unit] or other in KEPT_FROM.get(unit, ()):
                wrong.append(f"{where} imports {imported}: {unit} must not know {other}")
    return wrong


def unit_of(name: str) -> str | None:
    """The unit that has the module of that dotted name, or a name in such a module."""
    while name and name not in UNITS:
        name = name.rpartition(".")[0]
    return UNITS.get(name)


def test_kvmxens_imports_run_one_way() -> None:
    assert wrong_imports(Path(kvmxen.__file__).parent) == []


@pytest.mark.parametrize(
    ("module", "line", "complaint"),
    [
        ("errors.py", "from kvmxen.layout import PAGE_SIZE", "errors must not know layout"),
        ("errors.py", "from kvmxen import layout", "errors must not know layout"),
        ("errors.py", "import kvmxen.layout as l", "errors must not know layout"),
        ("errors.py", "from . import layout", "errors must not know layout"),
        ("errors.py", "from .layout import PAGE_SIZE", "errors must not know layout"),
        ("errors.py", "def f():\n    from kvmxen.layout import x", "errors must not know layout"),
        ("backends/net.py", "from kvmxen.vcpu import Vcpu", "backends must not know vcpu"),
        ("backends/net.py", "from ..vcpu import Vcpu", "backends must not know vcpu"),
        ("backends/net.pyx", "from kvmxen.vcpu cimport Vcpu", "backends must not know vcpu"),
        ("backends/net.pyx", "from kvmxen cimport (\n  ring,\n  vcpu)", "must not know vcpu"),
        ("backends/net.pyx", "from .. cimport vcpu", "backends must not know vcpu"),
        ("backends/net.pyx", "    cimport kvmxen.vcpu as v", "backends must not know vcpu"),
        ("backends/net.pxd", "from kvmxen.hypercall cimport t", "must not know hypercall"),
        (
            "backends/net.py",
            "if TYPE_CHECKING:\n    from kvmxen.vcpu import Vcpu",
            "backends must not know vcpu",
        ),
        ("cpu.py", "if TYPE_CHECKING:\n    from kvmxen.run import run", "cpu must not know run"),
        ("loader/elf.py", "import kvmxen.kvm.vm", "loader must not know kvm"),
        ("vcpu.pyx", "from kvmxen.machine import Machine", "vcpu must not know machine"),
        ("machine.py", "import kvmxen.cli.main", "cpu must not know cli"),
        ("novelty.py", "", "novelty is in no layer"),
    ],
)
def test_a_wrong_import_is_named(tmp_path: Path, module: str, line: str, complaint: str) -> None:
    root = make_tree(tmp_path, module, line)
    (sentence,) = wrong_imports(root)
    assert sentence.startswith(f"kvmxen/{module}")
    assert complaint in sentence


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("backends/net.py", "from kvmxen.ring import x\nfrom .block import y\nimport os"),
        ("backends/net.pyx", "from kvmxen.memory cimport GuestMemory  # not kvmxen.vcpu"),
        ("cli/main.py", "from kvmxen import __version__"),
        ("vcpu.pyx", '"""Of no use to import kvmxen.machine."""'),
        ("cli/boot.py", "from kvmxen.domain.domain import Domain"),
        ("hypercall/mmu.py", "from kvmxen.cpu import Cpu"),
        ("cpu.py", "if TYPE_CHECKING:\n    from kvmxen.machine import Machine"),
    ],
)
def test_a_right_import_is_none_of_its_business(tmp_path: Path, module: str, line: str) -> None:
    assert wrong_imports(make_tree(tmp_path, module, line)) == []


def make_tree(folder: Path, module: str, line: str) -> Path:
    root = folder / "kvmxen"
    units = [
        *(name.replace(".", "/") for name in UNITS),
        "backends/block",
        module.rpartition(".")[0],
    ]
    for unit in units:
        (root / unit).parent.mkdir(parents=True, exist_ok=True)
        if not (root / unit).is_dir():
            (root / unit).with_suffix(".py").touch()
    (root / "__init__.py").touch()
    path = root / module
    if path.suffix != ".py":
        path.with_suffix(".py").unlink()
    path.write_text(line)
    return root
