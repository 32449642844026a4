"""Checks that a vhd image does not depend on a parent, by its footer.

qemu takes an image with a parent for one without; the parent's data would read as zeros. Source:
Microsoft's Virtual Hard Disk Image Format Specification; qemu's block/vpc.c.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from kvmxen.errors import KvmxenError

_FOOTER = struct.Struct(">8s52xI")
_FOOTER_SIZE = 512
_COOKIE = b"conectix"
_FIXED, _DYNAMIC, _DIFFERENCING = 2, 3, 4


def check_vhd(fd: int, path: Path, size: int) -> None:
    """Raise KvmxenError if the file, `size` bytes long, is not a self-contained vhd image."""
    cookie, kind = _footer(fd, max(0, size - _FOOTER_SIZE))
    if cookie != _COOKIE or kind not in (_FIXED, _DYNAMIC, _DIFFERENCING):
        raise KvmxenError(f"the disk {path} is not a vhd image: give the right format")
    copy, copied_kind = _footer(fd, 0)
    # The guest can write the first sector of a fixed image, and qemu would believe it.
    if (copy == _COOKIE) != (kind != _FIXED) or (copy == _COOKIE and copied_kind != kind):
        raise KvmxenError(f"the disk {path} is damaged: its header and its footer differ")
    if kind == _DIFFERENCING:
        raise KvmxenError(
            f"the disk {path} depends on a parent vhd image, which qemu cannot read: merge the two"
        )


def _footer(fd: int, at: int) -> tuple[bytes, int]:
    """The cookie and the disk type in the footer at the offset `at`."""
    data = os.pread(fd, _FOOTER.size, at).ljust(_FOOTER.size, b"\0")
    cookie, kind = _FOOTER.unpack(data)
    return cookie, kind
