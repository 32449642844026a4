"""start_info: what a PV guest finds in RSI when it starts.

Source: struct start_info in xen/include/public/xen.h, as a 64-bit guest sees it.
"""

from __future__ import annotations

from enum import IntFlag

from construct import Bytes, Int32ul, Int64ul, PaddedString, Padding, Struct

MAX_GUEST_CMDLINE = 1024


class StartInfoFlags(IntFlag):
    """SIF_*"""

    PRIVILEGED = 1 << 0
    INITDOMAIN = 1 << 1
    MULTIBOOT_MOD = 1 << 2
    MOD_START_PFN = 1 << 3
    VIRT_P2M_4TOOLS = 1 << 4


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
