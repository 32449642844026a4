"""The files of this process's Python with kvmxen and its dependencies installed, and no others."""

from __future__ import annotations

import importlib.util
import marshal
import re
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from kvmxen.domain.initramfs import Entry

VENV = Path("/venv")
INTERPRETER = VENV / "bin/python3"
ROOT = Path(__file__).parents[2]
_SITE = VENV / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
_PROGRAM, _FILE, _LINK = 0o100755, 0o100644, 0o120777
# Files that no program imports, or that are not installed.
_UNUSED = re.compile(
    r"__pycache__|config-.*|(dist|site)-packages|ensurepip|idlelib|lib2to3|pydoc_data|tests?|"
    r"tkinter|turtledemo|_test.*\.so|.*\.(a|c|o|pyx|S)"
)
# A .pyc that is valid whatever its source's time (PEP 552): bit 0, hashed; bit 1, to be checked.
_UNCHECKED = (1).to_bytes(4, "little") + bytes(8)


def environment() -> Iterator[Entry]:
    """The interpreter at its place on this host, its standard library, and an environment with
    kvmxen from this working tree and its dependencies."""
    binary = Path(sys.executable).resolve()
    library = Path(sysconfig.get_path("stdlib"))
    entries = [Entry(str(binary), _PROGRAM, binary.read_bytes()), *files(library, library)]
    for folder in (ROOT / "kvmxen", *dependencies("kvmxen")):
        entries += files(folder, _SITE / folder.name)
    yield from entries
    yield from libraries([binary, *library.glob("lib-dynload/*.so"), *ROOT.glob("kvmxen/**/*.so")])
    config = f"home = {binary.parent}\ninclude-system-site-packages = false\n"
    yield Entry(str(VENV / "pyvenv.cfg"), _FILE, config.encode())
    yield Entry(str(INTERPRETER), _LINK, str(binary).encode())


def dependencies(name: str) -> list[Path]:
    """The packages (folders) that the distribution `name` needs to run, with their own
    dependencies."""
    seen = {name}
    waiting = [name]
    folders = []
    while waiting:
        for requirement in metadata.requires(waiting.pop()) or []:
            project = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
            if ";" in requirement or project in seen:
                continue
            seen.add(project)
            waiting.append(project)
            files = metadata.files(project) or []
            names = {f.parts[0] for f in files if f.name == "__init__.py" and len(f.parts) == 2}
            folders += [Path(str(metadata.distribution(project).locate_file(n))) for n in names]
    return sorted(folders)


def files(folder: Path, target: Path) -> Iterator[Entry]:
    """The files of `folder` to install as `target`, each source with its compiled form."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if not path.is_file() or any(_UNUSED.fullmatch(part) for part in inside.parts):
            continue
        name, content = str(target / inside), path.read_bytes()
        yield Entry(name, _PROGRAM if path.suffix == ".so" else _FILE, content)
        if path.suffix == ".py":
            cached = importlib.util.cache_from_source(name)
            yield Entry(cached, _FILE, compiled(path, content, name))


def compiled(path: Path, source: bytes, name: str) -> bytes:
    """The .pyc for `name`, whose source is that of `path`: the one beside it if it is valid."""
    magic = importlib.util.MAGIC_NUMBER
    kept = Path(importlib.util.cache_from_source(str(path)))
    if str(path) == name and kept.is_file():
        stamp = int(path.stat().st_mtime), len(source)
        header = magic + struct.pack("<III", 0, *(number & 0xFFFFFFFF for number in stamp))
        data = kept.read_bytes()
        if data.startswith(header):
            return magic + _UNCHECKED + data[len(header) :]
    code = compile(source, name, "exec", dont_inherit=True)
    return magic + _UNCHECKED + marshal.dumps(code)


def libraries(binaries: list[Path]) -> Iterator[Entry]:
    """The shared libraries, and the loader, that the `binaries` need on this host (ldd(1))."""
    output = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False).stdout
    for path in sorted(set(re.findall(r"(?m)(?:=> |^\s+)(/\S+) \(0x", output))):
        yield Entry(path, _PROGRAM, Path(path).read_bytes())
