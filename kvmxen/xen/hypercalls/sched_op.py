"""SCHEDOP_*: yield, block, poll, shutdown, watchdog. Source: xen/include/public/sched.h."""

from __future__ import annotations

import errno
from array import array
from enum import IntEnum

from kvmxen.errors import HypercallError
from kvmxen.xen.abi import xen
from kvmxen.xen.abi.sched import SchedPoll, SchedWatchdog
from kvmxen.xen.abi.xen import Shutdown
from kvmxen.xen.hypercalls.caller import Caller

_MAX_POLL_PORTS = 128


class SchedOp(IntEnum):
    """SCHEDOP_*"""

    YIELD = xen.SCHEDOP_yield
    BLOCK = xen.SCHEDOP_block
    SHUTDOWN = xen.SCHEDOP_shutdown
    POLL = xen.SCHEDOP_poll
    SHUTDOWN_CODE = xen.SCHEDOP_shutdown_code
    WATCHDOG = xen.SCHEDOP_watchdog


def sched_op(cpu: Caller, command: int, argument: int) -> int:
    """Perform one SCHEDOP."""
    match command & 0xFFFFFFFF:
        case SchedOp.YIELD:
            return 0
        case SchedOp.BLOCK:
            cpu.machine.memory.write_u8(cpu.info_gpa + xen.VCPU_INFO_UPCALL_MASK, 0)
            cpu.block()
            return 0
        case SchedOp.SHUTDOWN:
            return _shutdown(cpu, cpu.read_u32(argument))
        case SchedOp.POLL:
            return _poll(cpu, argument)
        case SchedOp.SHUTDOWN_CODE:
            # Announces the reason of a shutdown; only the shutdown's own reason counts.
            if cpu.read_u32(argument) > Shutdown.SOFT_RESET:
                raise HypercallError(errno.EINVAL)
            return 0
        case SchedOp.WATCHDOG:
            watchdog = SchedWatchdog.load(cpu, argument)
            return cpu.machine.watchdogs.set(watchdog.id, watchdog.timeout)
    raise HypercallError(errno.ENOSYS)


def sched_op_compat(cpu: Caller, command: int, argument: int) -> int:
    """The form before Xen 3.1: the shutdown's reason is the argument itself."""
    if command & 0xFFFFFFFF == SchedOp.SHUTDOWN:
        return _shutdown(cpu, argument & 0xFFFFFFFF)
    if command & 0xFFFFFFFF in (SchedOp.YIELD, SchedOp.BLOCK):
        return sched_op(cpu, command, argument)
    raise HypercallError(errno.ENOSYS)


def _shutdown(cpu: Caller, reason: int) -> int:
    if reason > Shutdown.SOFT_RESET:
        raise HypercallError(errno.EINVAL)
    if reason == Shutdown.SUSPEND:
        # A cancelled suspend returns 1: the guest continues where it was.
        return 1
    cpu.machine.shutdown(Shutdown(reason), cpu.index)
    return 0


def _poll(cpu: Caller, argument: int) -> int:
    request = SchedPoll.load(cpu, argument)
    if request.nr_ports > _MAX_POLL_PORTS:
        raise HypercallError(errno.EINVAL)
    ports = array("I", cpu.read(request.ports, request.nr_ports * 4))
    # Check every port before sleeping on any.
    pending = [cpu.machine.events.is_pending(port) for port in ports]
    if not any(pending):
        cpu.poll(ports, request.timeout)
    return 0
