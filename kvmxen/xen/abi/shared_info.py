"""What Xen shares with every guest: struct vcpu_info and struct shared_info of
xen/include/public/xen.h.
"""

from __future__ import annotations

from kvmxen.xen.abi.structure import S8, U8, U32, U64, Array, Bytes, Nested, Structure, ULong
from kvmxen.xen.abi.xen import LEGACY_MAX_VCPUS


class VcpuTimeInfo(Structure):
    version = U32()
    pad0 = U32()
    tsc_timestamp = U64()
    system_time = U64()
    tsc_to_system_mul = U32()
    tsc_shift = S8()
    flags = U8()
    pad1 = Bytes(2)


class VcpuInfo(Structure, widths=(64,)):
    evtchn_upcall_pending = U8()
    evtchn_upcall_mask = U8()
    evtchn_pending_sel = ULong()
    cr2 = ULong()
    pad = ULong()
    time = Nested(VcpuTimeInfo)


class SharedInfo(Structure, widths=(64,)):
    vcpu_info = Array(Nested(VcpuInfo), LEGACY_MAX_VCPUS)
    evtchn_pending = Array(ULong(), 64)
    evtchn_mask = Array(ULong(), 64)
    wc_version = U32()
    wc_sec = U32()
    wc_nsec = U32()
    wc_sec_hi = U32()
    max_pfn = ULong()
    pfn_to_mfn_frame_list_list = ULong()
    nmi_reason = ULong()
    p2m_cr3 = ULong()
    p2m_vaddr = ULong()
    p2m_generation = ULong()
