"""Checks that a vhdx image does not depend on a parent, by its metadata.

Source: Microsoft's MS-VHDX; qemu's block/vhdx.c.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from uuid import UUID

from kvmxen.errors import KvmxenError

_MAGIC = b"vhdxfile"
# Each copy of the region table holds its number of entries, then the entries.
_TABLES_AT = (192 << 10, 256 << 10)
_TABLE = struct.Struct("<4s4xI4x")
_REGION = struct.Struct("<16sQI4x")
_METADATA = UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e").bytes_le
_METADATA_TABLE = struct.Struct("<8s2xH20x")
_ITEM = struct.Struct("<16sIII4x")
_FILE_PARAMETERS = UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b").bytes_le
_PARENT_LOCATOR = UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c").bytes_le
_PARAMETERS = struct.Struct("<II")
_HAS_PARENT = 2
_MAX_ENTRIES = 2047
_MAX_OFFSET = 1 << 46


class _Damaged(Exception):
    """The image cannot be used, for the reason in the text."""


def check_vhdx(fd: int, path: Path) -> None:
    """Raise KvmxenError if the file is not a self-contained vhdx image."""
    try:
        if os.pread(fd, len(_MAGIC), 0) != _MAGIC:
            raise KvmxenError(f"the disk {path} is not a vhdx image: give the right format")
        if _has_parent(fd):
            raise KvmxenError(
                f"the disk {path} depends on a parent vhdx image, which is not allowed: "
                "merge the two"
            )
    except struct.error:
        raise KvmxenError(f"the disk {path} is damaged: it has no metadata") from None
    except _Damaged as error:
        raise KvmxenError(f"the disk {path} is damaged: {error}") from None


def _has_parent(fd: int) -> bool:
    return any(_says_parent(fd, at) for table in _TABLES_AT for at in _metadata(fd, table))


def _at_most_one(offsets: list[int], what: str) -> list[int]:
    """Return `offsets`; raise _Damaged if there are several, as each would have to be read."""
    if len(offsets) > 1:
        raise _Damaged(f"it has {what} more than once")
    return offsets


def _metadata(fd: int, table: int) -> list[int]:
    """The offset of the metadata that the region table at `table` names, if it names any."""
    magic, count = _TABLE.unpack(os.pread(fd, _TABLE.size, table))
    if magic != b"regi":
        return []
    data = os.pread(fd, min(count, _MAX_ENTRIES) * _REGION.size, table + _TABLE.size)
    regions = _REGION.iter_unpack(data)
    found = [at for guid, at, _ in regions if guid == _METADATA and at < _MAX_OFFSET]
    return _at_most_one(found, "metadata")


def _says_parent(fd: int, at: int) -> bool:
    magic, count = _METADATA_TABLE.unpack(os.pread(fd, _METADATA_TABLE.size, at))
    if magic != b"metadata":
        return False
    data = os.pread(fd, min(count, _MAX_ENTRIES) * _ITEM.size, at + _METADATA_TABLE.size)
    items = [(guid, offset) for guid, offset, _, _ in _ITEM.iter_unpack(data)]
    if any(guid == _PARENT_LOCATOR for guid, _ in items):
        return True
    found = [at + offset for guid, offset in items if guid == _FILE_PARAMETERS]
    for place in _at_most_one(found, "file parameters"):
        _, bits = _PARAMETERS.unpack(os.pread(fd, _PARAMETERS.size, place))
        if bits & _HAS_PARENT:
            return True
    return False
