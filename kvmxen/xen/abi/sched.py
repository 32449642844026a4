"""The structures of xen/include/public/sched.h, but for those of one number."""

from __future__ import annotations

from kvmxen.xen.abi.structure import U32, U64, Structure, ULong


class SchedPoll(Structure):
    ports = ULong()
    nr_ports = U32()
    timeout = U64()


class SchedWatchdog(Structure):
    id = U32()
    timeout = U32()
