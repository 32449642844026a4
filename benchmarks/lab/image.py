"""The initial ramdisk of the measured machine: all that runs there, kept until it changes."""

from __future__ import annotations

import hashlib
import json
import re
import stat
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import guest
from benchmarks.lab import devices, jobs, python
from kvmxen.domain.initramfs import Entry, build_cpio, folder, program, system
from kvmxen.guests._build import compile_guest
from kvmxen.loader.bzimage import find_payload
from kvmxen.loader.decompress import decompress_payload
from tests import packages
from tests.lab.modules import modules

HOST_KERNEL = "6.12"
GUEST_KERNEL = "6.1"
_HERE = Path(__file__).parent
_FILE, _LINK = 0o100644, 0o120777
_INIT = """#!/bin/busybox sh
/bin/guest "$@"
/bin/busybox poweroff -f
"""
_QEMU_DATA = (
    "usr/share/seabios/bios-256k.bin",
    "usr/share/seabios/bios-microvm.bin",
    "usr/share/qemu/*_dma.bin",
    "usr/share/qemu/pvh.bin",
    "usr/share/qemu/kvmvapic.bin",
)
_LOADER = "usr/lib64/ld-linux-x86-64.so.2"
_LIBRARIES = "usr/lib/x86_64-linux-gnu"


def build(folder_: Path) -> Path:
    """The ramdisk's file, in `folder_`; the existing one if nothing changed."""
    entries = list(_entries())
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(repr((entry.path, entry.mode, len(entry.content))).encode())
        digest.update(entry.content)
    path = folder_ / f"{digest.hexdigest()[:32]}.cpio"
    if not path.exists():
        folder_.mkdir(parents=True, exist_ok=True)
        for old in folder_.glob("*.cpio"):
            old.unlink()
        temporary = path.with_suffix(".new")
        temporary.write_bytes(build_cpio(_with_folders(entries)))
        temporary.replace(path)
    return path


def _entries() -> Iterator[Entry]:
    loaded = modules(HOST_KERNEL, ["kvm_amd", *devices.HOST_MODULES])
    yield Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    yield program("bin/busybox", packages.busybox().read_bytes())
    yield program("init", (_HERE / "init.sh").read_bytes())
    yield _program("net")
    yield Entry("lab/devices", _FILE, devices.HOST_SETUP.encode())
    yield Entry("lab/modules", _FILE, "".join(f"{m.name}\n" for m in loaded).encode())
    for module in loaded:
        yield Entry(f"lab/{module.name}", _FILE, module.image)
    for source in sorted({*_HERE.glob("*.py"), *_HERE.parent.glob("*.py")}):
        yield Entry(f"lab/{source.relative_to(_HERE.parents[1])}", _FILE, source.read_bytes())
    yield Entry("lab/jobs", _FILE, json.dumps(list(jobs.commands().items())).encode())
    yield from python.environment()
    yield from _guest()
    yield from _qemu()


def _guest() -> Iterator[Entry]:
    """The guest's kernel, as packaged and unpacked, and ramdisks."""
    kernel = packages.debian_kernel(GUEST_KERNEL)
    yield Entry("guest/vmlinuz", _FILE, kernel.read_bytes())
    vmlinux = decompress_payload(find_payload(kernel.read_bytes()))
    yield Entry("guest/vmlinux", _FILE, bytes(vmlinux))
    yield Entry("guest/initrd", _FILE, operations())
    drivers = [
        Entry(f"lib/{number}-{module.name}", _FILE, module.image)
        for number, module in enumerate(modules(GUEST_KERNEL, devices.GUEST_MODULES))
    ]
    contents = [_program("disk"), _program("net"), folder("lib"), *drivers]
    yield Entry(devices.RAMDISK, _FILE, _ramdisk(devices.GUEST_INIT, contents))
    with TemporaryDirectory() as temp:
        bench = Path(temp, "bench")
        compile_guest(sorted(guest.SOURCES.glob("*.[cS]")), bench)
        yield Entry("guest/bench", _FILE, bench.read_bytes())
    yield Entry("guest/xen-shim", _FILE, packages.xen_shim().read_bytes())


def operations() -> bytes:
    """A ramdisk whose init performs each operation of guest.c."""
    return _ramdisk(_INIT, [_program("guest")])


def _ramdisk(init: str, contents: Iterable[Entry]) -> bytes:
    # A kernel unpacks archives one after another.
    return system(packages.busybox(), init) + build_cpio(contents)


def _program(name: str) -> Entry:
    """The program from the source file `name`.c, which needs no library."""
    with TemporaryDirectory() as temp:
        binary = Path(temp, name)
        flags = ("-O2", "-static", "-Wall", "-Wextra", "-Werror")
        subprocess.run(["gcc", *flags, "-o", binary, _HERE / f"{name}.c"], check=True)
        return program(f"bin/{name}", binary.read_bytes())


def _qemu() -> Iterator[Entry]:
    tree = packages.qemu()
    binaries = [tree / name for name in jobs.QEMU_BINARIES]
    for path in (*binaries, tree / _LOADER, *_needed(tree, binaries)):
        yield program(f"qemu/{path.relative_to(tree)}", path.read_bytes())
    for pattern in _QEMU_DATA:
        for path in sorted(tree.glob(pattern)):
            yield Entry(f"qemu/{path.relative_to(tree)}", _FILE, path.read_bytes())


def _needed(tree: Path, binaries: list[Path]) -> list[Path]:
    """The libraries of `tree` that the `binaries` load, as found by the tree's own loader."""
    found = set()
    for binary in binaries:
        command: list[str | Path] = [
            tree / _LOADER,
            "--library-path",
            tree / _LIBRARIES,
            "--list",
            binary,
        ]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found.update(re.findall(rf"=> ({re.escape(str(tree))}\S+)", listing))
    return sorted(map(Path, found))


def _with_folders(entries: Iterable[Entry]) -> Iterator[Entry]:
    """`entries` with the paths of a cpio archive, each folder before its contents."""
    made = set()
    for name in ("cache", "dev", "proc", "run", "sys", "tmp"):
        made.add(Path(name))
        yield folder(name)
    for entry in entries:
        path = Path(entry.path.lstrip("/"))
        for parent in reversed(path.parents[:-1]):
            if parent not in made:
                made.add(parent)
                yield folder(str(parent))
        yield Entry(str(path), entry.mode, entry.content, entry.device)
