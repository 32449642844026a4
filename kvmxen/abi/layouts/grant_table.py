"""Layouts of the structures of kvmxen.abi.grant_table, from the same header."""

from __future__ import annotations

from construct import Int16sl, Int16ul, Int32ul, Int64ul, Padding, Struct

ENTRY_V1 = Struct("flags" / Int16ul, "domid" / Int16ul, "frame" / Int32ul)

ENTRY_V2 = Struct(
    "flags" / Int16ul,
    "domid" / Int16ul,
    # Valid only if flags has SUB_PAGE.
    "page_off" / Int16ul,
    "length" / Int16ul,
    "frame" / Int64ul,
)

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
