"""Grant entries, operations and their structures, as a 64-bit guest sees them.

Source: xen/include/public/grant_table.h.
"""

from __future__ import annotations

from enum import IntEnum

from construct import Int16sl, Int16ul, Int32ul, Int64ul, Padding, Struct

# Entries that a domain builder fills, and that a change of version keeps.
RESERVED_ENTRIES = 8
RESERVED_CONSOLE = 0
RESERVED_XENSTORE = 1

# GTF_*: an entry's flags.
PERMIT_ACCESS = 1
ACCEPT_TRANSFER = 2
TRANSITIVE = 3
TYPE_MASK = 3
READONLY = 1 << 2
READING = 1 << 3
WRITING = 1 << 4
SUB_PAGE = 1 << 8

ENTRY_V1 = Struct("flags" / Int16ul, "domid" / Int16ul, "frame" / Int32ul)
ENTRY_V2 = Struct(
    "flags" / Int16ul,
    "domid" / Int16ul,
    # Only where flags has SUB_PAGE.
    "page_off" / Int16ul,
    "length" / Int16ul,
    "frame" / Int64ul,
)


class GrantStatus(IntEnum):
    """GNTST_*"""

    OKAY = 0
    GENERAL_ERROR = -1
    BAD_DOMAIN = -2
    BAD_GNTREF = -3
    BAD_HANDLE = -4
    BAD_VIRT_ADDR = -5
    BAD_DEV_ADDR = -6
    NO_DEVICE_SPACE = -7
    PERMISSION_DENIED = -8
    BAD_PAGE = -9
    BAD_COPY_ARG = -10
    ADDRESS_TOO_BIG = -11
    EAGAIN = -12
    NO_SPACE = -13


class GnttabOp(IntEnum):
    """GNTTABOP_*"""

    MAP_GRANT_REF = 0
    UNMAP_GRANT_REF = 1
    SETUP_TABLE = 2
    DUMP_TABLE = 3
    TRANSFER = 4
    COPY = 5
    QUERY_SIZE = 6
    UNMAP_AND_REPLACE = 7
    SET_VERSION = 8
    GET_STATUS_FRAMES = 9
    GET_VERSION = 10
    SWAP_GRANT_REF = 11
    CACHE_FLUSH = 12


# GNTMAP_*: flags of map_grant_ref.
MAP_DEVICE = 1 << 0
MAP_HOST = 1 << 1
MAP_READONLY = 1 << 2
MAP_CONTAINS_PTE = 1 << 4
MAP_AVAIL_SHIFT = 16

# GNTCOPY_*: flags of copy.
COPY_SOURCE_GREF = 1 << 0
COPY_DEST_GREF = 1 << 1

# GNTTAB_CACHE_*: op of cache_flush.
CACHE_CLEAN = 1 << 0
CACHE_INVAL = 1 << 1

MAP_GRANT_REF = Struct(
    "host_addr" / Int64ul,
    "flags" / Int32ul,
    "ref" / Int32ul,
    "dom" / Int16ul,
    "status" / Int16sl,
    "handle" / Int32ul,
    "dev_bus_addr" / Int64ul,
)
UNMAP_GRANT_REF = Struct(
    "host_addr" / Int64ul,
    "dev_bus_addr" / Int64ul,
    "handle" / Int32ul,
    "status" / Int16sl,
    Padding(2),
)
UNMAP_AND_REPLACE = Struct(
    "host_addr" / Int64ul,
    "new_addr" / Int64ul,
    "handle" / Int32ul,
    "status" / Int16sl,
    Padding(2),
)
SETUP_TABLE = Struct(
    "dom" / Int16ul,
    Padding(2),
    "nr_frames" / Int32ul,
    "status" / Int16sl,
    Padding(6),
    "frame_list" / Int64ul,
)
GET_STATUS_FRAMES = Struct(
    "nr_frames" / Int32ul,
    "dom" / Int16ul,
    "status" / Int16sl,
    "frame_list" / Int64ul,
)
COPY_POINTER = Struct("frame" / Int64ul, "domid" / Int16ul, "offset" / Int16ul, Padding(4))
COPY = Struct(
    "source" / COPY_POINTER,
    "dest" / COPY_POINTER,
    "len" / Int16ul,
    "flags" / Int16ul,
    "status" / Int16sl,
    Padding(2),
)
SWAP_GRANT_REF = Struct("ref_a" / Int32ul, "ref_b" / Int32ul, "status" / Int16sl, Padding(2))
CACHE_FLUSH = Struct(
    "dev_bus_addr" / Int64ul, "offset" / Int16ul, "length" / Int16ul, "op" / Int32ul
)
TRANSFER = Struct(
    "mfn" / Int64ul, "domid" / Int16ul, Padding(2), "ref" / Int32ul, "status" / Int16sl, Padding(6)
)
