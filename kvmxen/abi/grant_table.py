"""Grant entries, operations and their structures, as a 64-bit guest sees them.

Source: xen/include/public/grant_table.h.
"""

from __future__ import annotations

from enum import IntEnum

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
