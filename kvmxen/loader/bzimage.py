"""Finds the compressed kernel in a bzImage.

Source: Linux's Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header".
"""

from __future__ import annotations

from construct import Int8ul, Int16ul, Int32ul, Padding, Struct

from kvmxen.errors import KvmxenError

_HEADER_OFFSET = 0x1F1
_MAGIC_OFFSET = 0x202
_SECTOR = 512
_PAYLOAD_PROTOCOL = 0x208

SETUP_HEADER = Struct(
    "setup_sects" / Int8ul,
    Padding(0x206 - 0x1F2),
    "version" / Int16ul,
    Padding(0x248 - 0x208),
    "payload_offset" / Int32ul,
    "payload_length" / Int32ul,
)


def is_bzimage(image: bytes | bytearray) -> bool:
    """Whether `image` has the boot protocol's magic."""
    return image[_MAGIC_OFFSET : _MAGIC_OFFSET + 4] == b"HdrS"


def find_payload(image: bytes | bytearray) -> memoryview:
    """A view of the compressed payload of the bzImage `image`.

    Raises KvmxenError, phrased to follow the file's name.
    """
    end = _HEADER_OFFSET + SETUP_HEADER.sizeof()
    if len(image) < end:
        raise KvmxenError("is a truncated bzImage: it ends within its header; get it again")
    header = SETUP_HEADER.parse(image[_HEADER_OFFSET:end])
    if header.version < _PAYLOAD_PROTOCOL:
        raise KvmxenError(
            f"is a bzImage of boot protocol {header.version >> 8}.{header.version & 0xFF:02}, "
            "too old to say where its kernel is; use the vmlinux that it was made from"
        )
    # Zero means four sectors; the boot sector precedes them.
    start = ((header.setup_sects or 4) + 1) * _SECTOR + header.payload_offset
    if start + header.payload_length > len(image):
        raise KvmxenError(
            f"is a truncated bzImage: it has {len(image)} of "
            f"{start + header.payload_length} bytes; get it again"
        )
    return memoryview(image)[start : start + header.payload_length]
