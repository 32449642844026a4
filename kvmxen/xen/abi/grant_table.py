"""Grant entries, operations and their structures.

Source: xen/include/public/grant_table.h.
"""

from __future__ import annotations

from enum import IntEnum

from kvmxen.xen.abi import xen
from kvmxen.xen.abi.structure import S16, U16, U32, U64, Nested, Structure, ULong

# The entries that a domain builder fills and a change of version keeps.
RESERVED_ENTRIES = xen.GNTTAB_NR_RESERVED_ENTRIES
RESERVED_CONSOLE = xen.GNTTAB_RESERVED_CONSOLE
RESERVED_XENSTORE = xen.GNTTAB_RESERVED_XENSTORE

# GTF_*: an entry's flags.
PERMIT_ACCESS = xen.GTF_permit_access
ACCEPT_TRANSFER = xen.GTF_accept_transfer
TRANSITIVE = xen.GTF_transitive
TYPE_MASK = xen.GTF_type_mask
READONLY = xen.GTF_readonly
READING = xen.GTF_reading
WRITING = xen.GTF_writing
SUB_PAGE = xen.GTF_sub_page


class GrantStatus(IntEnum):
    """GNTST_*"""

    OKAY = xen.GNTST_okay
    GENERAL_ERROR = xen.GNTST_general_error
    BAD_DOMAIN = xen.GNTST_bad_domain
    BAD_GNTREF = xen.GNTST_bad_gntref
    BAD_HANDLE = xen.GNTST_bad_handle
    BAD_VIRT_ADDR = xen.GNTST_bad_virt_addr
    BAD_DEV_ADDR = xen.GNTST_bad_dev_addr
    NO_DEVICE_SPACE = xen.GNTST_no_device_space
    PERMISSION_DENIED = xen.GNTST_permission_denied
    BAD_PAGE = xen.GNTST_bad_page
    BAD_COPY_ARG = xen.GNTST_bad_copy_arg
    ADDRESS_TOO_BIG = xen.GNTST_address_too_big
    EAGAIN = xen.GNTST_eagain
    NO_SPACE = xen.GNTST_no_space


class GnttabOp(IntEnum):
    """GNTTABOP_*"""

    MAP_GRANT_REF = xen.GNTTABOP_map_grant_ref
    UNMAP_GRANT_REF = xen.GNTTABOP_unmap_grant_ref
    SETUP_TABLE = xen.GNTTABOP_setup_table
    DUMP_TABLE = xen.GNTTABOP_dump_table
    TRANSFER = xen.GNTTABOP_transfer
    COPY = xen.GNTTABOP_copy
    QUERY_SIZE = xen.GNTTABOP_query_size
    UNMAP_AND_REPLACE = xen.GNTTABOP_unmap_and_replace
    SET_VERSION = xen.GNTTABOP_set_version
    GET_STATUS_FRAMES = xen.GNTTABOP_get_status_frames
    GET_VERSION = xen.GNTTABOP_get_version
    SWAP_GRANT_REF = xen.GNTTABOP_swap_grant_ref
    CACHE_FLUSH = xen.GNTTABOP_cache_flush


# GNTMAP_*: flags of map_grant_ref.
MAP_DEVICE = xen.GNTMAP_device_map
MAP_HOST = xen.GNTMAP_host_map
MAP_READONLY = xen.GNTMAP_readonly
MAP_CONTAINS_PTE = xen.GNTMAP_contains_pte
MAP_AVAIL_SHIFT = xen.GNTMAP_guest_avail_shift

# GNTCOPY_*: flags of copy.
COPY_SOURCE_GREF = xen.GNTCOPY_source_gref
COPY_DEST_GREF = xen.GNTCOPY_dest_gref

# GNTTAB_CACHE_*: op of cache_flush.
CACHE_CLEAN = xen.GNTTAB_CACHE_CLEAN
CACHE_INVAL = xen.GNTTAB_CACHE_INVAL


class GrantEntryV1(Structure):
    flags = U16()
    domid = U16()
    frame = U32()


class GrantEntryV2(Structure):
    """union grant_entry_v2: full_page, and sub_page, whose fields count if flags has SUB_PAGE."""

    flags = U16()
    domid = U16()
    page_off = U16()
    length = U16()
    frame = U64()


class GnttabMapGrantRef(Structure):
    host_addr = U64()
    flags = U32()
    ref = U32()
    dom = U16()
    status = S16()
    handle = U32()
    dev_bus_addr = U64()


class GnttabUnmapGrantRef(Structure):
    host_addr = U64()
    dev_bus_addr = U64()
    handle = U32()
    status = S16()


class GnttabUnmapAndReplace(Structure):
    host_addr = U64()
    new_addr = U64()
    handle = U32()
    status = S16()


class GnttabSetupTable(Structure):
    dom = U16()
    nr_frames = U32()
    status = S16()
    frame_list = ULong()


class GnttabCopyPtr(Structure):
    """`source` and `dest` of GnttabCopy; `u` is a grant reference (32 bits) or a frame."""

    u = ULong()
    domid = U16()
    offset = U16()


class GnttabCopy(Structure):
    source = Nested(GnttabCopyPtr)
    dest = Nested(GnttabCopyPtr)
    len = U16()
    flags = U16()
    status = S16()


class GnttabQuerySize(Structure):
    dom = U16()
    nr_frames = U32()
    max_nr_frames = U32()
    status = S16()


class GnttabGetStatusFrames(Structure):
    nr_frames = U32()
    dom = U16()
    status = S16()
    frame_list = ULong()


class GnttabGetVersion(Structure):
    dom = U16()
    version = U32()


class GnttabSwapGrantRef(Structure):
    ref_a = U32()
    ref_b = U32()
    status = S16()


class GnttabCacheFlush(Structure):
    dev_bus_addr = U64()
    offset = U16()
    length = U16()
    op = U32()
