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
    {"front"},
    {"domain"},
    {"domain.control", "pv.programs", "pv.snippet"},
    {"pv.run"},
    {"pv.exceptions", "pv.trace"},
    {"pv.m2p"},
    {"pv.emulate"},
    {"pv.msrs", "pv.ioports", "pv.hypercalls"},
    {"pv.machine pv.cpu"},
    {"loader", "backends", "guests", "xenstore.server"},
    {"pv.balloon", "pv.bounce"},
    {"pv.paging", "pv.probe"},
    {"pv.features"},
    {"pv.ring3"},
    {"pv.gate"},
    {"pv.shim"},
    {"xen.hypercalls", "xen.maptrack"},
    {
        "xen.cpuid",
        "xen.eventloop",
        "xen.events",
        "xen.grants",
        "xen.runstate",
        "xen.timer",
        "xen.watchdog",
        "xenstore",
    },
    {"ring", "kvm", "vcpu"},
    {"domain.rundir", "domain.description"},
    {"domain.record"},
    {"kvm.memory", "config", "backends.loop"},
    {"kvm.layout"},
    {"xen.abi"},
    {"errors", "streams", "domain.state", "confine"},
)
RANK = {unit: rank for rank, layer in enumerate(LAYERS) for unit in layer}
# By dotted name under kvmxen.
UNITS = {name: unit for unit in RANK for name in unit.split()}

# The code at /dev/kvm and above; everything else is tested without it.
_MACHINERY = {unit for unit in RANK if unit.startswith("pv.")} | {"kvm", "vcpu"}
KEPT_FROM = {
    "front": _MACHINERY,
    "backends": _MACHINERY,
    "xenstore": _MACHINERY,
    "xenstore.server": _MACHINERY,
    "xen.hypercalls": _MACHINERY,
    "domain.control": _MACHINERY,
    "loader": _MACHINERY | {"xen.events", "xen.grants", "xenstore", "ring"},
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
        if unit is None and path.name == "__init__.py" and not list(modules_named(path, root)):
            continue
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
        ("errors.py", "from kvmxen.kvm.layout import PAGE_SIZE", "errors must not know kvm.layout"),
        ("errors.py", "from kvmxen.kvm import layout", "errors must not know kvm.layout"),
        ("errors.py", "import kvmxen.kvm.layout as l", "errors must not know kvm.layout"),
        ("errors.py", "from .kvm import layout", "errors must not know kvm.layout"),
        ("errors.py", "from .kvm.layout import PAGE_SIZE", "errors must not know kvm.layout"),
        ("errors.py", "def f():\n    from kvmxen.vcpu import x", "errors must not know vcpu"),
        ("backends/net.py", "from kvmxen.vcpu import Vcpu", "backends must not know vcpu"),
        ("backends/net.py", "from ..vcpu import Vcpu", "backends must not know vcpu"),
        ("backends/net.pyx", "from kvmxen.vcpu cimport Vcpu", "backends must not know vcpu"),
        ("backends/net.pyx", "from kvmxen cimport (\n  ring,\n  vcpu)", "must not know vcpu"),
        ("backends/net.pyx", "from .. cimport vcpu", "backends must not know vcpu"),
        ("backends/net.pyx", "    cimport kvmxen.vcpu as v", "backends must not know vcpu"),
        ("backends/net.pxd", "from kvmxen.pv.hypercalls cimport t", "must not know pv.hypercalls"),
        (
            "backends/net.py",
            "if TYPE_CHECKING:\n    from kvmxen.vcpu import Vcpu",
            "backends must not know vcpu",
        ),
        (
            "pv/cpu.py",
            "if TYPE_CHECKING:\n    from kvmxen.pv.run import run",
            "pv.cpu must not know pv.run",
        ),
        ("xen/hypercalls/version.py", "from kvmxen.pv.cpu import Cpu", "must not know pv.machine"),
        ("loader/elf.py", "import kvmxen.kvm.vm", "loader must not know kvm"),
        ("vcpu.pyx", "from kvmxen.pv.machine import Machine", "vcpu must not know pv.machine"),
        ("pv/machine.py", "import kvmxen.cli.main", "pv.cpu must not know cli"),
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
        ("backends/net.pyx", "from kvmxen.kvm.memory cimport GuestMemory  # not kvmxen.vcpu"),
        ("cli/main.py", "from kvmxen import __version__"),
        ("vcpu.pyx", '"""Of no use to import kvmxen.pv.machine."""'),
        ("cli/boot.py", "from kvmxen.domain.domain import Domain"),
        ("pv/hypercalls/mmu.py", "from kvmxen.pv.cpu import Cpu"),
        ("pv/cpu.py", "if TYPE_CHECKING:\n    from kvmxen.pv.machine import Machine"),
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
