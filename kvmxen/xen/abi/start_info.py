"""start_info: the structure whose address a PV guest finds in RSI when it starts.

Source: struct start_info in xen/include/public/xen.h. The console's fields are those of a domU.
"""

from __future__ import annotations

from enum import IntFlag

from kvmxen.xen.abi import xen
from kvmxen.xen.abi.structure import U32, Bytes, Structure, ULong

MAX_GUEST_CMDLINE = xen.MAX_GUEST_CMDLINE


class StartInfoFlags(IntFlag):
    """SIF_*"""

    PRIVILEGED = 1 << 0
    INITDOMAIN = 1 << 1
    MULTIBOOT_MOD = 1 << 2
    MOD_START_PFN = 1 << 3
    VIRT_P2M_4TOOLS = 1 << 4


class StartInfo(Structure):
    magic = Bytes(32)
    nr_pages = ULong()
    shared_info = ULong()  # a machine address, not a frame
    flags = U32()
    store_mfn = ULong()
    store_evtchn = U32()
    console_mfn = ULong()
    console_evtchn = U32()
    pt_base = ULong()
    nr_pt_frames = ULong()
    mfn_list = ULong()
    mod_start = ULong()  # a virtual address, or with MOD_START_PFN a pfn
    mod_len = ULong()
    cmd_line = Bytes(MAX_GUEST_CMDLINE)
    # If the list of frames has a mapping of its own: its first frame, and their number.
    first_p2m_pfn = ULong()
    nr_p2m_frames = ULong()
