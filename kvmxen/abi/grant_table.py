"""Grant entries, operations and their structures, as a 64-bit guest sees them.

Source: xen/include/public/grant_table.h.
"""

from __future__ import annotations

from enum import IntEnum

from kvmxen.abi import xen

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
