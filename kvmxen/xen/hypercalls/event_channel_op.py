"""EVTCHNOP_*: the guest's side of xen/events.py. Source: xen/include/public/event_channel.h."""

from __future__ import annotations

import errno
from enum import IntEnum

from kvmxen.errors import HypercallError
from kvmxen.xen.abi import xen
from kvmxen.xen.abi.event_channel import (
    EvtchnAllocUnbound,
    EvtchnBindInterdomain,
    EvtchnBindIpi,
    EvtchnBindVcpu,
    EvtchnBindVirq,
    EvtchnStatus,
)
from kvmxen.xen.abi.xen import DOMID_GUEST, DOMID_SELF
from kvmxen.xen.events import Status
from kvmxen.xen.hypercalls.caller import Caller
from kvmxen.xen.hypercalls.domid import OWN, check_own


class EvtchnOp(IntEnum):
    """EVTCHNOP_*"""

    BIND_INTERDOMAIN = xen.EVTCHNOP_bind_interdomain
    BIND_VIRQ = xen.EVTCHNOP_bind_virq
    BIND_PIRQ = xen.EVTCHNOP_bind_pirq
    CLOSE = xen.EVTCHNOP_close
    SEND = xen.EVTCHNOP_send
    STATUS = xen.EVTCHNOP_status
    ALLOC_UNBOUND = xen.EVTCHNOP_alloc_unbound
    BIND_IPI = xen.EVTCHNOP_bind_ipi
    BIND_VCPU = xen.EVTCHNOP_bind_vcpu
    UNMASK = xen.EVTCHNOP_unmask
    RESET = xen.EVTCHNOP_reset


def event_channel_op(cpu: Caller, command: int, argument: int) -> int:
    """Perform one EVTCHNOP; there are no FIFO channels (-ENOSYS)."""
    command &= 0xFFFFFFFF
    events = cpu.machine.events
    if command == EvtchnOp.SEND:
        if events.send(cpu.read_u32(argument)) == cpu.index:
            cpu.note_own_event()
        return 0
    match command:
        case EvtchnOp.UNMASK:
            events.unmask(cpu.read_u32(argument))
        case EvtchnOp.CLOSE:
            events.close(cpu.read_u32(argument))
        case EvtchnOp.BIND_VIRQ:
            virq = EvtchnBindVirq.load(cpu, argument)
            EvtchnBindVirq.port.store(cpu, argument, events.bind_virq(virq.virq, virq.vcpu))
            target = cpu.machine.cpus[virq.vcpu]
            target.timer.dirty = True
            if target is not cpu:
                target.kick()
        case EvtchnOp.BIND_IPI:
            vcpu = EvtchnBindIpi.vcpu.load(cpu, argument)
            EvtchnBindIpi.port.store(cpu, argument, events.bind_ipi(vcpu))
        case EvtchnOp.BIND_VCPU:
            events.bind_vcpu(*EvtchnBindVcpu.load(cpu, argument))
        case EvtchnOp.ALLOC_UNBOUND:
            unbound = EvtchnAllocUnbound.load(cpu, argument)
            check_own(unbound.dom)
            remote = DOMID_GUEST if unbound.remote_dom == DOMID_SELF else unbound.remote_dom
            EvtchnAllocUnbound.port.store(cpu, argument, events.alloc_unbound(remote))
        case EvtchnOp.BIND_INTERDOMAIN:
            peer = EvtchnBindInterdomain.load(cpu, argument)
            if peer.remote_dom not in OWN:
                raise HypercallError(errno.ESRCH)
            port = events.bind_interdomain(peer.remote_port)
            EvtchnBindInterdomain.local_port.store(cpu, argument, port)
        case EvtchnOp.STATUS:
            _status(cpu, argument)
        case EvtchnOp.RESET:
            check_own(cpu.read_u16(argument))
            events.reset()
        case EvtchnOp.BIND_PIRQ:
            raise HypercallError(errno.EPERM)
        case _:
            raise HypercallError(errno.ENOSYS)
    return 0


def event_channel_op_compat(cpu: Caller, argument: int) -> int:
    """The form before Xen 3.2: the command precedes its argument in memory."""
    command = cpu.read_u32(argument)
    return event_channel_op(cpu, command, argument + 4)


def _status(cpu: Caller, argument: int) -> None:
    request = EvtchnStatus.load(cpu, argument)
    check_own(request.dom)
    port = cpu.machine.events.port(request.port)
    match port.status:
        case Status.INTERDOMAIN:
            detail = DOMID_GUEST if port.target else 0, port.target
        case Status.UNBOUND:
            detail = port.remote_domain, 0
        case _:
            detail = port.target, 0
    request.replace(status=port.status, vcpu=port.vcpu, u=detail).store(cpu, argument)
