"""The structures of xen/include/public/event_channel.h, but for those of one number."""

from __future__ import annotations

from kvmxen.xen.abi.structure import U16, U32, Array, Structure


class EvtchnAllocUnbound(Structure):
    dom = U16()
    remote_dom = U16()
    port = U32()


class EvtchnBindInterdomain(Structure):
    remote_dom = U16()
    remote_port = U32()
    local_port = U32()


class EvtchnBindVirq(Structure):
    virq = U32()
    vcpu = U32()
    port = U32()


class EvtchnBindIpi(Structure):
    vcpu = U32()
    port = U32()


class EvtchnStatus(Structure):
    dom = U16()
    port = U32()
    status = U32()
    vcpu = U32()
    # A union: a domain (16 bits) and its port, or the number of a virq or pirq.
    u = Array(U32(), 2)


class EvtchnBindVcpu(Structure):
    port = U32()
    vcpu = U32()
