"""Layouts of the structures of kvmxen.abi.start_info, from the same header."""

from __future__ import annotations

from construct import Bytes, Int32ul, Int64ul, PaddedString, Padding, Struct

from kvmxen.abi.start_info import MAX_GUEST_CMDLINE

START_INFO = Struct(
    "magic" / PaddedString(32, "ascii"),
    "nr_pages" / Int64ul,
    "shared_info" / Int64ul,  # a machine address, not a frame
    "flags" / Int32ul,
    Padding(4),
    "store_mfn" / Int64ul,
    "store_evtchn" / Int32ul,
    Padding(4),
    "console_mfn" / Int64ul,
    "console_evtchn" / Int32ul,
    Padding(4),
    "pt_base" / Int64ul,
    "nr_pt_frames" / Int64ul,
    "mfn_list" / Int64ul,
    "mod_start" / Int64ul,  # a virtual address, or with MOD_START_PFN a pfn
    "mod_len" / Int64ul,
    "cmd_line" / Bytes(MAX_GUEST_CMDLINE),
    "first_p2m_pfn" / Int64ul,
    "nr_p2m_frames" / Int64ul,
)
