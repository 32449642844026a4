"""EVTCHNOP_*: the guest's side of kvmxen/events.py. Source: xen/include/public/event_channel.h."""

from __future__ import annotations

import errno
import struct
from enum import IntEnum

from kvmxen.abi import xen
from kvmxen.abi.xen import DOMID_GUEST, DOMID_SELF
from kvmxen.cpu import Cpu
from kvmxen.errors import HypercallError
from kvmxen.events import Status
from kvmxen.hypercall.domid import OWN, check_own


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


def event_channel_op(cpu: Cpu, command: int, argument: int) -> int:
    """Perform one EVTCHNOP; there are no FIFO channels (-ENOSYS)."""
    command &= 0xFFFFFFFF
    events = cpu.machine.events
    if command == EvtchnOp.SEND:
        if events.send(cpu.read_u32(argument)) == cpu.index:
            cpu.vcpu.note_own_event()
        return 0
    match command:
        case EvtchnOp.UNMASK:
            events.unmask(cpu.read_u32(argument))
        case EvtchnOp.CLOSE:
            events.close(cpu.read_u32(argument))
        case EvtchnOp.BIND_VIRQ:
            virq, vcpu = struct.unpack("<II", cpu.read(argument, 8))
            _put_port(cpu, argument + 8, events.bind_virq(virq, vcpu))
            target = cpu.machine.cpus[vcpu]
            target.timer.dirty = True
            if target is not cpu:
                target.kick()
        case EvtchnOp.BIND_IPI:
            (vcpu,) = struct.unpack("<I", cpu.read(argument, 4))
            _put_port(cpu, argument + 4, events.bind_ipi(vcpu))
        case EvtchnOp.BIND_VCPU:
            events.bind_vcpu(*struct.unpack("<II", cpu.read(argument, 8)))
        case EvtchnOp.ALLOC_UNBOUND:
            domid, remote = struct.unpack("<HH", cpu.read(argument, 4))
            check_own(domid)
            remote = DOMID_GUEST if remote == DOMID_SELF else remote
            _put_port(cpu, argument + 4, events.alloc_unbound(remote))
        case EvtchnOp.BIND_INTERDOMAIN:
            domid, port = struct.unpack("<H2xI", cpu.read(argument, 8))
            if domid not in OWN:
                raise HypercallError(errno.ESRCH)
            _put_port(cpu, argument + 8, events.bind_interdomain(port))
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


def event_channel_op_compat(cpu: Cpu, argument: int) -> int:
    """The form before Xen 3.2: the command precedes its argument in memory."""
    command = cpu.read_u32(argument)
    return event_channel_op(cpu, command, argument + 4)


def _put_port(cpu: Cpu, va: int, port: int) -> None:
    cpu.write_u32(va, port)


def _status(cpu: Cpu, argument: int) -> None:
    domid, number = struct.unpack("<H2xI", cpu.read(argument, 8))
    check_own(domid)
    port = cpu.machine.events.port(number)
    match port.status:
        case Status.INTERDOMAIN:
            domid = DOMID_GUEST if port.target else 0
            detail = struct.pack("<H2xI", domid, port.target)
        case Status.UNBOUND:
            detail = struct.pack("<H6x", port.remote_domain)
        case _:
            detail = struct.pack("<I4x", port.target)
    cpu.write(argument + 8, struct.pack("<II", port.status, port.vcpu) + detail)
