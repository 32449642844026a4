"""The block device's protocol. Source: xen/include/public/io/blkif.h.

A sector has 512 bytes, whatever the device's own size. The requests and responses of a 32-bit
frontend lack the padding that aligns 64-bit fields.
"""

from __future__ import annotations

from enum import IntEnum

from construct import Array, Const, Int8ul, Int16sl, Int16ul, Int32ul, Int64ul, Padding, Struct

from kvmxen.xen.abi import io

SECTOR = 512
MAX_SEGMENTS_PER_REQUEST = io.BLKIF_MAX_SEGMENTS_PER_REQUEST
MAX_INDIRECT_PAGES_PER_REQUEST = io.BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST


class BlkifOp(IntEnum):
    """BLKIF_OP_*"""

    READ = io.BLKIF_OP_READ
    WRITE = io.BLKIF_OP_WRITE
    WRITE_BARRIER = io.BLKIF_OP_WRITE_BARRIER
    FLUSH_DISKCACHE = io.BLKIF_OP_FLUSH_DISKCACHE
    DISCARD = io.BLKIF_OP_DISCARD
    INDIRECT = io.BLKIF_OP_INDIRECT


class BlkifStatus(IntEnum):
    """BLKIF_RSP_*"""

    OKAY = io.BLKIF_RSP_OKAY
    ERROR = io.BLKIF_RSP_ERROR
    EOPNOTSUPP = io.BLKIF_RSP_EOPNOTSUPP


# BLKIF_DISCARD_SECURE, in a discard's flag.
DISCARD_SECURE = io.BLKIF_DISCARD_SECURE
# VDISK_*, in the node "info".
VDISK_CDROM = io.VDISK_CDROM
VDISK_READONLY = io.VDISK_READONLY

SEGMENT = Struct("gref" / Int32ul, "first_sect" / Int8ul, "last_sect" / Int8ul, Padding(2))


def _layouts(padding: int) -> dict[str, Struct]:
    """The structures with `padding` bytes before a 64-bit field that follows a 32-bit one."""
    return {
        "request": Struct(
            "operation" / Int8ul,
            "nr_segments" / Int8ul,
            "handle" / Int16ul,
            Padding(padding),
            "id" / Int64ul,
            "sector_number" / Int64ul,
            "seg" / Array(MAX_SEGMENTS_PER_REQUEST, SEGMENT),
        ),
        "discard": Struct(
            "operation" / Const(BlkifOp.DISCARD, Int8ul),
            "flag" / Int8ul,
            "handle" / Int16ul,
            Padding(padding),
            "id" / Int64ul,
            "sector_number" / Int64ul,
            "nr_sectors" / Int64ul,
        ),
        "indirect": Struct(
            "operation" / Const(BlkifOp.INDIRECT, Int8ul),
            "indirect_op" / Int8ul,
            "nr_segments" / Int16ul,
            Padding(padding),
            "id" / Int64ul,
            "sector_number" / Int64ul,
            "handle" / Int16ul,
            Padding(2),
            "indirect_grefs" / Array(MAX_INDIRECT_PAGES_PER_REQUEST, Int32ul),
            Padding(padding),
        ),
        "response": Struct(
            "id" / Int64ul,
            "operation" / Int8ul,
            Padding(1),
            "status" / Int16sl,
            Padding(padding),
        ),
    }


# The layouts by the value of the node "protocol" (io/protocols.h).
PROTOCOLS = {"x86_64-abi": _layouts(4), "x86_32-abi": _layouts(0)}
NATIVE = "x86_64-abi"
