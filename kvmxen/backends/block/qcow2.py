"""What must be known of a qcow2 image before it is used: that its chain of files is all named.

An image says of which format its backing file is, or qemu looks at that file's first bytes,
which may be a guest's. Source: qemu's docs/interop/qcow2.txt.
"""

from __future__ import annotations

from pathlib import Path

from construct import Bytes, Const, ConstructError, Int32ub, Int64ub, Struct

from kvmxen.errors import KvmxenError

HEADER = Struct(
    "magic" / Const(b"QFI\xfb"),
    "version" / Int32ub,
    "backing_file_offset" / Int64ub,
    "backing_file_size" / Int32ub,
    "_" / Bytes(80),
    "header_length" / Int32ub,
)
EXTENSION = Struct("type" / Int32ub, "length" / Int32ub)
BACKING_FORMAT = 0xE2792ACA

_V2_LENGTH = 72
_MAX_NAME = 1023
_MAX_CHAIN = 64
# The header and its extensions are in the first cluster, which has at most 2 MiB.
_MAX_CLUSTER = 2 << 20


def check_chain(path: Path) -> None:
    """Raises KvmxenError for what is no qcow2 image, or whose backing file's format is not said,
    or that of a file behind that."""
    for _ in range(_MAX_CHAIN):
        backing = _backing(path)
        if backing is None:
            return
        name, form = backing
        if not form:
            raise KvmxenError(
                f"{path} does not say of which format {name}, the image behind it, is: "
                f"qemu-img rebase -u -b {name} -F FORMAT {path}"
            )
        if form != "qcow2":
            return
        path = path.parent / name
    raise KvmxenError(f"there are more than {_MAX_CHAIN} images behind {path}")


def _backing(path: Path) -> tuple[str, str] | None:
    """The backing file of the image at `path` and its format, None where it has none."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_CLUSTER)
    except OSError as error:
        raise KvmxenError(f"the disk {path} cannot be opened: {error.strerror}") from None
    try:
        header = HEADER.parse(data)
    except ConstructError:
        raise KvmxenError(f"{path} is no qcow2 image: give the format that it is of") from None
    if not header.backing_file_offset:
        return None
    start, size = header.backing_file_offset, min(header.backing_file_size, _MAX_NAME)
    name = data[start : start + size].decode("utf-8", "surrogateescape")
    at = header.header_length if header.version >= 3 else _V2_LENGTH
    while at + EXTENSION.sizeof() <= min(start, len(data)):
        extension = EXTENSION.parse(data[at:])
        at += EXTENSION.sizeof()
        if extension.type == BACKING_FORMAT:
            return name, data[at : at + extension.length].decode("ascii", "replace")
        if extension.type == 0:
            break
        at += (extension.length + 7) & ~7
    return name, ""
