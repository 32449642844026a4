"""Disks for whole domains: file systems made and examined on the host, and the guest's programs."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmxen.domain.initramfs import Entry, build_cpio, folder, program
from tests import packages
from tests.e2e.conftest import PRELUDE
from tests.lab.modules import modules

SOURCE = Path(__file__).parent / "diskload" / "diskload.c"
MODULES = ("xen_blkfront", "crc32c_generic", "ext4", "xen_netfront")
_FOLDERS = ("bin", "dev", "proc", "sbin", "sys", "tmp", "usr", "usr/bin", "usr/sbin", "mnt", "mod")


def tool(name: str) -> str:
    """The path of one of e2fsprogs' or qemu's programs; skips if there is none."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"needs {name}")
    return found


def run(name: str, *arguments: str | Path, statuses: tuple[int, ...] = (0,)) -> str:
    """The output of such a program, whose exit status must be one of `statuses`."""
    command = [tool(name), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode in statuses, f"{command}: {result.stdout}{result.stderr}"
    return result.stdout


def empty_image(path: Path, mib: int) -> Path:
    """A sparse raw image of zeros."""
    path.touch()
    os.truncate(path, mib << 20)
    return path


def make_file_system(path: Path, mib: int, tree: Path | None = None) -> Path:
    """An image with an ext4 file system that contains the folder `tree`."""
    empty_image(path, mib)
    run("mke2fs", "-q", "-t", "ext4", "-F", *(("-d", tree) if tree else ()), path)
    return path


def assert_clean(image: Path) -> None:
    """Check that e2fsck finds nothing to repair, and no journal to replay."""
    run("e2fsck", "-fn", image)


def replay(image: Path) -> None:
    """Replay the journal, as the guest's next mount does; e2fsck may repair more than that."""
    run("e2fsck", "-fy", image, statuses=(0, 1))


def dump(image: Path, where: str, into: Path) -> Path:
    """Copy the file or folder `where` of the image's file system into the folder `into`."""
    into.mkdir(exist_ok=True)
    run("debugfs", "-R", f"rdump {where} {into}", image)
    return into / Path(where).name


def check_sums(folder: Path) -> int:
    """The number of files below `folder` whose checksum is that in its file SUMS; all must
    match."""
    lines = (folder / "SUMS").read_text().splitlines()
    for line in lines:
        digest, name = line.split(maxsplit=1)
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name
    return len(lines)


def libraries(path: str | Path) -> dict[str, Path]:
    """The libraries that a program of the host loads, by path in an initial ramdisk; none if
    static."""
    listing = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
    return {found[1:]: Path(found) for found in re.findall(r"(/\S+) \(0x", listing)}


def compile_diskload(folder: Path) -> Path:
    """The static program that works on the guest's disks."""
    out = folder / "diskload"
    command = ["gcc", "-O2", "-static", "-Wall", "-Wextra", "-Werror", "-o", str(out), str(SOURCE)]
    subprocess.run(command, check=True, capture_output=True)
    return out


# disk_ramdisk(script, *programs): a ramdisk whose init loads the disks' modules and runs `script`.
DiskRamdisk = Callable[..., Path]


def make_ramdisk(out: Path, version: str, script: str, *programs: Path) -> Path:
    """An initial ramdisk with the kernel's modules for disks and networks, mkfs.ext4, `programs`.

    Raises packages.Unavailable.
    """
    mke2fs = tool("mke2fs")
    files = {
        "bin/busybox": packages.busybox(),
        # busybox's own mke2fs makes ext2.
        "bin/mkfs.ext4": Path(mke2fs),
        **libraries(mke2fs),
        **{f"bin/{path.name}": path for path in programs},
        **{name: path for each in programs for name, path in libraries(each).items()},
    }
    loaded = modules(version, MODULES)
    insmod = "".join(f"insmod /mod/{module.name}\n" for module in loaded)
    above = {str(up) for name in files for up in Path(name).parents if str(up) != "."}
    entries = [
        *map(folder, sorted({*_FOLDERS, *above})),
        Entry("dev/console", 0o20600, device=(5, 1)),
        *(program(name, path.read_bytes()) for name, path in files.items()),
        *(program(f"mod/{module.name}", module.image) for module in loaded),
        program("init", (PRELUDE + insmod + script).encode()),
    ]
    out.write_bytes(build_cpio(entries))
    return out


def sha256(path: Path) -> str:
    """The checksum of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
