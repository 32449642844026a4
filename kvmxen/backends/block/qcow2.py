"""Reads the header of a qcow2 image: the files that it names, and its encryption.

kvmxen tells qemu which files to use, and qemu follows no name in a header. The header is read only
to refuse, with a clear message, what a person has not allowed. Source: qemu's
docs/interop/qcow2.txt.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from kvmxen.errors import KvmxenError

_MAGIC = b"QFI\xfb"
# Magic, version, the backing file's offset and size, cluster bits, size, method of encryption;
# then, from version 3 on, the incompatible features and the header's length.
_HEADER = struct.Struct(">4sIQIIQI")
_FEATURES = struct.Struct(">Q")
_FEATURES_AT, _LENGTH_AT = 72, 100
_LENGTH = struct.Struct(">I")
_V2_LENGTH = 72
_EXTENSION = struct.Struct(">II")

_DATA_FILE_BIT = 1 << 2
_END, _BACKING_FORMAT, _DATA_FILE = 0, 0xE2792ACA, 0x44415441
_NOT_ENCRYPTED, _LUKS = 0, 2

_MAX_NAME = 1023
# An image has at most one extension of each kind that exists.
_MAX_EXTENSIONS = 64
# The header and its extensions lie in the first cluster, which has at most 2 MiB.
_MAX_CLUSTER = 2 << 20


@dataclass(frozen=True)
class Header:
    """`backing` is the name of the file behind the image, if any, and `backing_format` its stated
    format, if any; `encrypted` means LUKS."""

    backing: str | None
    backing_format: str
    encrypted: bool


def read_header(fd: int, path: Path) -> Header:
    """Read the header of the image at `path`, open as `fd`.

    Raises KvmxenError if it is not a qcow2 image, if its data is in another file, or if it
    contains an impossible file name.
    """
    data = os.pread(fd, _MAX_CLUSTER, 0)
    try:
        return _parse(data, path)
    except struct.error:
        raise _none(path) from None


def _parse(data: bytes, path: Path) -> Header:
    magic, version, backing_at, backing_size, _, _, method = _HEADER.unpack_from(data)
    if magic != _MAGIC or version not in (2, 3):
        raise _none(path)
    length, features = _V2_LENGTH, 0
    if version == 3:
        (features,) = _FEATURES.unpack_from(data, _FEATURES_AT)
        (length,) = _LENGTH.unpack_from(data, _LENGTH_AT)
    extensions = _extensions(data, length, backing_at or len(data), path)
    if features & _DATA_FILE_BIT or _DATA_FILE in extensions:
        raise KvmxenError(
            f"the disk {path} keeps its data in another file, which is not allowed: "
            f"make one image of the two (qemu-img convert -O qcow2 {quote(str(path))} NEW)"
        )
    if method not in (_NOT_ENCRYPTED, _LUKS):
        raise KvmxenError(
            f"the disk {path} is encrypted by a method that is no longer safe: convert it to LUKS "
            "(qemu-img convert)"
        )
    return Header(
        backing=_backing(data, backing_at, backing_size, path) if backing_at else None,
        backing_format=_name(extensions.get(_BACKING_FORMAT, b""), path),
        encrypted=method == _LUKS,
    )


def _extensions(data: bytes, at: int, end: int, path: Path) -> dict[int, bytes]:
    """The header's extensions by type, from `at` to their end or to `end`."""
    found: dict[int, bytes] = {}
    for _ in range(_MAX_EXTENSIONS):
        if at + _EXTENSION.size > min(end, len(data)):
            return found
        kind, length = _EXTENSION.unpack_from(data, at)
        if kind == _END:
            return found
        at += _EXTENSION.size
        found[kind] = data[at : at + min(length, _MAX_NAME)]
        at += (length + 7) & ~7
    raise KvmxenError(f"the disk {path} is damaged: its header has no end")


def _backing(data: bytes, at: int, size: int, path: Path) -> str:
    if not 0 < size <= _MAX_NAME or at + size > len(data):
        raise KvmxenError(f"the disk {path} is damaged: the name in its header has no end")
    return _name(data[at : at + size], path)


def _name(raw: bytes, path: Path) -> str:
    name = os.fsdecode(raw)
    if not name.isprintable():
        raise KvmxenError(
            f"the disk {path} names a file or a format with unprintable characters: "
            "it is damaged or malicious"
        )
    return name


def _none(path: Path) -> KvmxenError:
    return KvmxenError(f"the disk {path} is not a qcow2 image: give the right format")
