"""Images whose metadata is meant to keep us busy: kvmxen reads a bounded amount."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmxen.backends.block import vhdx
from kvmxen.backends.block.vhdx import check_vhdx
from kvmxen.backends.block.vmdk import check_vmdk
from kvmxen.errors import KvmxenError

VMDK = (
    b'# Disk DescriptorFile\nCID = 1\nparentCID=ffffffff\n createType="monolithicSparse"\n'
    b'RW 2048 SPARSE "a"\n'
)
Check = Callable[[int, Path], None]


def checked(path: Path, check: Check) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        check(fd, path)
    finally:
        os.close(fd)


def vmdk(path: Path, line: bytes) -> Path:
    header = struct.pack("<4sIIQQQQ", b"KDMV", 1, 3, 2048, 128, 1, 20)
    path.write_bytes(header.ljust(512, b"\0") + (VMDK + line).ljust(20 * 512, b"\0"))
    return path


@pytest.mark.parametrize(
    "line",
    [
        b"a=" + b" " * 10_000 + b'""x',
        b"RW" + b" " * 10_000 + b"x",
        b" " * 10_000 + b"=",
        b'a="' + b'"' * 10_000 + b"x",
    ],
)
def test_a_vmdk_line_of_blanks(tmp_path: Path, line: bytes) -> None:
    """A regular expression with three ways to divide the blanks would never return."""
    path = vmdk(tmp_path / "a", line)

    def check(fd: int, path: Path) -> None:
        check_vmdk(fd, path, readonly=False)

    if line.startswith(b"RW"):
        with pytest.raises(KvmxenError, match="keeps its data in other files"):
            checked(path, check)
    else:
        checked(path, check)


def hostile_vhdx(path: Path, regions: int, items: int) -> Path:
    """A vhdx image that names `regions` metadata regions, all of them the same one, which has
    `items` file parameters."""
    metadata = 1 << 20
    with path.open("wb") as file:
        file.write(b"vhdxfile")
        for table in (192 << 10, 256 << 10):
            file.seek(table)
            file.write(struct.pack("<4s4xI4x", b"regi", regions))
            region = struct.pack("<16sQI4x", vhdx._METADATA, metadata, 1 << 20)
            file.write(region * regions)
        file.seek(metadata)
        file.write(struct.pack("<8s2xH20x", b"metadata", items))
        file.write(struct.pack("<16sIII4x", vhdx._FILE_PARAMETERS, 1 << 16, 8, 0) * items)
        file.seek(metadata + (1 << 16))
        file.write(struct.pack("<II", 1 << 20, 0))
    return path


@pytest.mark.parametrize(
    ("regions", "items", "twice"),
    [(1, 1, ""), (2047, 2047, "metadata"), (2, 1, "metadata"), (1, 2047, "file parameters")],
)
def test_a_vhdx_that_says_it_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, regions: int, items: int, twice: str
) -> None:
    path = hostile_vhdx(tmp_path / "a", regions, items)
    pread, reads = os.pread, 0

    def counted(fd: int, size: int, at: int) -> bytes:
        nonlocal reads
        reads += 1
        assert reads <= 16
        return pread(fd, size, at)

    monkeypatch.setattr(os, "pread", counted)
    if twice:
        with pytest.raises(KvmxenError, match=f"is damaged: it has {twice} more than once"):
            checked(path, check_vhdx)
    else:
        checked(path, check_vhdx)
