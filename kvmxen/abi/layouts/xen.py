"""Layouts of the structures of kvmxen.abi.xen, from the same header."""

from __future__ import annotations

from construct import Array, Int8ul, Int32ul, Int64ul, Padding, Struct

from kvmxen.abi.xen import LEGACY_MAX_VCPUS

VCPU_TIME_INFO = Struct(
    "version" / Int32ul,
    Padding(4),
    "tsc_timestamp" / Int64ul,
    "system_time" / Int64ul,
    "tsc_to_system_mul" / Int32ul,
    "tsc_shift" / Int8ul,
    "flags" / Int8ul,
    Padding(2),
)

VCPU_INFO = Struct(
    "evtchn_upcall_pending" / Int8ul,
    "evtchn_upcall_mask" / Int8ul,
    Padding(6),
    "evtchn_pending_sel" / Int64ul,
    "cr2" / Int64ul,
    Padding(8),
    "time" / VCPU_TIME_INFO,
)

SHARED_INFO = Struct(
    "vcpu_info" / Array(LEGACY_MAX_VCPUS, VCPU_INFO),
    "evtchn_pending" / Array(64, Int64ul),
    "evtchn_mask" / Array(64, Int64ul),
    "wc_version" / Int32ul,
    "wc_sec" / Int32ul,
    "wc_nsec" / Int32ul,
    "wc_sec_hi" / Int32ul,
    "max_pfn" / Int64ul,
    "pfn_to_mfn_frame_list_list" / Int64ul,
    "nmi_reason" / Int64ul,
    "p2m_cr3" / Int64ul,
    "p2m_vaddr" / Int64ul,
    "p2m_generation" / Int64ul,
)
