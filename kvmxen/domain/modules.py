"""The drivers for Xen's devices that a Linux kernel has as modules, for the ramdisk of --shell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kvmxen.errors import KvmxenError
from kvmxen.loader.decompress import decompress, is_compressed
from kvmxen.loader.files import RegularFile

if TYPE_CHECKING:
    from kvmxen.loader.elf import ElfKernel

DRIVERS = ("xen_netfront", "xen_blkfront")
# The folders of modules in a running system, and in an unpacked package.
_FOLDERS = ("", "lib/modules", "usr/lib/modules")
_LARGEST = 64 << 20
# linux_banner in Linux's init/version-timestamp.c; what follows is who built it.
_BANNER = re.compile(rb"Linux version ([0-9][!-.0-~]{0,63}) \(")
_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


@dataclass(frozen=True)
class Module:
    """A module: its name, with `_` for `-`, and the file, decompressed."""

    name: str
    image: bytes | bytearray


def kernel_version(kernel: ElfKernel) -> str:
    """The `uname -r` of a guest with `kernel`; raises KvmxenError if that is not Linux."""
    for segment in kernel.segments:
        if match := _BANNER.search(segment.data):
            return match[1].decode("ascii")
    raise KvmxenError("the kernel image does not name its version of Linux")


def drivers(kernel: ElfKernel, root: Path) -> list[Module]:
    """The modules that `kernel` needs for Xen's devices, in loading order, except built-in ones.

    `root` is a folder of modules by version, such as /lib/modules, or one that contains such a
    folder, such as / or an unpacked package. Raises KvmxenError if something is missing.
    """
    version = kernel_version(kernel)
    folder = _folder(root, version)
    places = dict(_listed(folder / "modules.order"))
    builtin = dict(_listed(folder / "modules.builtin"))
    found: dict[str, Module] = {}

    def add(name: str, *before: str) -> None:
        if name in found or name in builtin:
            return
        if name not in places:
            raise KvmxenError(f"{folder} has no module {name}")
        if name in before:
            raise KvmxenError(f"{folder} has modules that need each other: {', '.join(before)}")
        image = _read(folder / places[name])
        for needed in dependencies(image):
            add(needed, name, *before)
        found[name] = Module(name, image)

    for name in DRIVERS:
        add(name)
    return list(found.values())


def dependencies(image: bytes | bytearray) -> list[str]:
    """The names, with `_` for `-`, of the modules that `image` needs: `depends` in its .modinfo."""
    match = _DEPENDS.search(image)
    names = match[1].decode("ascii", "replace").replace("-", "_") if match else ""
    return names.split(",") if names else []


def _folder(root: Path, version: str) -> Path:
    for folder in _FOLDERS:
        path = root / folder / version
        if (path / "modules.order").is_file():
            return path
    where = root / "lib/modules" if root == Path("/") else root
    raise KvmxenError(f"{where} has no modules for the kernel's version, {version}")


def _listed(path: Path) -> Iterator[tuple[str, str]]:
    """The modules listed in the file `path`: each module's name and its path in the folder."""
    with RegularFile(path) as file:
        lines = file.read(_LARGEST, "that is not a list of modules").decode("utf-8", "replace")
    for line in lines.split():
        yield line.rpartition("/")[2].partition(".")[0].replace("-", "_"), line


def _read(path: Path) -> bytearray:
    """The decompressed module that was built as `path`, whatever format compresses it now."""
    files = sorted(path.parent.glob(f"{path.name}*"))
    with RegularFile(files[0] if files else path) as file:
        image = file.read(_LARGEST, "that is not a module")
        try:
            return decompress(memoryview(image)) if is_compressed(image) else image
        except KvmxenError as error:
            raise file.error(str(error)) from None
