"""The ring that a frontend and a backend share: two pairs of indices, then the entries.

Source: xen/include/public/io/ring.h. An entry is a request until its response takes its place.
"""

from __future__ import annotations

from construct import Array, Int32ul, Padding, Struct

from kvmxen.xen.abi import io

SRING = Struct(
    "req_prod" / Int32ul,
    "req_event" / Int32ul,
    "rsp_prod" / Int32ul,
    "rsp_event" / Int32ul,
    "pvt" / Array(4, Int32ul),
    Padding(32),
)

# Offsets in bytes, for the paths that touch single fields of shared memory.
REQ_PROD = io.RING_REQ_PROD
REQ_EVENT = io.RING_REQ_EVENT
RSP_PROD = io.RING_RSP_PROD
RSP_EVENT = io.RING_RSP_EVENT
ENTRIES = io.RING_ENTRIES


def ring_size(length: int, entry_size: int) -> int:
    """How many entries of `entry_size` bytes a ring of `length` bytes has: a power of two.

    Raises ValueError if there is no room for one (__RING_SIZE()).
    """
    room = (length - ENTRIES) // entry_size
    if room < 1:
        raise ValueError(f"no entry of {entry_size} bytes in a ring of {length}")
    return 1 << room.bit_length() - 1
