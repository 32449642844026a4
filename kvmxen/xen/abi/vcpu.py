"""The structures of xen/include/public/vcpu.h, but for those of one number."""

from __future__ import annotations

from kvmxen.xen.abi.structure import S32, U32, U64, Array, Structure


class VcpuRunstateInfo(Structure):
    """`time` is how long the vCPU was in each state, in ns, `state_entry_time` a system time."""

    state = S32()
    state_entry_time = U64()
    time = Array(U64(), 4)


class VcpuSetSingleshotTimer(Structure):
    timeout_abs_ns = U64()
    flags = U32()


class VcpuRegisterVcpuInfo(Structure):
    mfn = U64()
    offset = U32()
    rsvd = U32()
