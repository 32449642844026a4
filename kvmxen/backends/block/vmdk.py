"""Checks that a vmdk image has no parent and no extents in other files.

Only an image that is its own single extent is used; VMware calls these monolithicSparse and
streamOptimized. Source: VMware's Virtual Disk Format 1.1; qemu's block/vmdk.c.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from kvmxen.errors import KvmxenError

# Magic, version, flags, capacity, grain size, the descriptor's offset and size, in sectors.
_HEADER = struct.Struct("<4sIIQQQQ")
_MAGIC = b"KDMV"
_SECTOR = 512
# In sectors; qemu reads no more.
_MAX_DESCRIPTOR = 20
_ACCESSES = ("RW", "RDONLY", "NOACCESS")
_WRITABLE, _READONLY = "monolithicSparse", "streamOptimized"
_NO_PARENT = "ffffffff"


def check_vmdk(fd: int, path: Path, *, readonly: bool) -> None:
    """Raise KvmxenError if the file is not a vmdk image of one file, or cannot be written although
    it should be."""
    data = os.pread(fd, _HEADER.size, 0).ljust(_HEADER.size, b"\0")
    magic, _, _, capacity, _, at, sectors = _HEADER.unpack(data)
    if magic != _MAGIC:
        raise KvmxenError(
            f"the disk {path} is not a vmdk image in one file: convert it to one (qemu-img convert)"
        )
    text = os.pread(fd, min(sectors, _MAX_DESCRIPTOR) * _SECTOR, min(at, 1 << 40) * _SECTOR)
    lines = text.partition(b"\0")[0].decode("latin-1").splitlines()
    # Not a regular expression: on a hostile line it can take polynomial time.
    pairs = (line.partition("=") for line in lines)
    said = {name.strip(): value.strip().strip('"') for name, equals, value in pairs if equals}
    # An access mode, a number of sectors, a kind, a file name.
    words = (line.split(maxsplit=3) for line in lines)
    extents = [extent[2:3] for extent in words if extent and extent[0] in _ACCESSES]
    kind = said.get("createType")
    if not capacity or kind not in (_WRITABLE, _READONLY) or extents != [["SPARSE"]]:
        raise KvmxenError(
            f"the disk {path} keeps its data in other files, which is not allowed: "
            "convert it to an image in one file (qemu-img convert)"
        )
    if said.get("parentCID", _NO_PARENT).lower() != _NO_PARENT or "parentFileNameHint" in said:
        raise KvmxenError(
            f"the disk {path} depends on a parent vmdk image, which is not allowed: "
            "merge the two (qemu-img convert)"
        )
    if kind == _READONLY and not readonly:
        raise KvmxenError(
            f"the disk {path} is a read-only kind of vmdk image: give ,ro, or convert it "
            "(qemu-img convert)"
        )
