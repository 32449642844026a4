"""VCPUOP_*: bring vCPUs up and down, place their shared structures, set their timers.

Source: xen/include/public/vcpu.h, xen/common/domain.c.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from enum import IntEnum
from typing import TypeVar

from kvmxen.errors import HypercallError
from kvmxen.kvm.layout import PAGE_SHIFT, PAGE_SIZE
from kvmxen.xen.abi import xen
from kvmxen.xen.abi.vcpu import VcpuRegisterVcpuInfo, VcpuSetSingleshotTimer
from kvmxen.xen.hypercalls.caller import Caller

_FAR = 1 << 50
_MIN_PERIOD = 1_000_000
_MAX_PERIOD = 1_000_000_000 * 86_400
_C = TypeVar("_C", bound=Caller)


class VcpuOp(IntEnum):
    """VCPUOP_*"""

    INITIALISE = xen.VCPUOP_initialise
    UP = xen.VCPUOP_up
    DOWN = xen.VCPUOP_down
    IS_UP = xen.VCPUOP_is_up
    GET_RUNSTATE_INFO = xen.VCPUOP_get_runstate_info
    REGISTER_RUNSTATE_MEMORY_AREA = xen.VCPUOP_register_runstate_memory_area
    SET_PERIODIC_TIMER = xen.VCPUOP_set_periodic_timer
    STOP_PERIODIC_TIMER = xen.VCPUOP_stop_periodic_timer
    SET_SINGLESHOT_TIMER = xen.VCPUOP_set_singleshot_timer
    STOP_SINGLESHOT_TIMER = xen.VCPUOP_stop_singleshot_timer
    REGISTER_VCPU_INFO = xen.VCPUOP_register_vcpu_info
    SEND_NMI = xen.VCPUOP_send_nmi
    GET_PHYSID = xen.VCPUOP_get_physid
    REGISTER_VCPU_TIME_MEMORY_AREA = xen.VCPUOP_register_vcpu_time_memory_area


_CHANGES = frozenset({VcpuOp.UP, VcpuOp.DOWN, VcpuOp.REGISTER_VCPU_INFO})


def vcpu_op(
    initialise: Callable[[_C, int, int], None], cpu: _C, command: int, index: int, argument: int
) -> int:
    """Perform one VCPUOP on vCPU `index`.

    `initialise(cpu, index, argument)` loads its first state, which differs by the kind of guest.
    """
    command, index = command & 0xFFFFFFFF, index & 0xFFFFFFFF
    if index >= len(cpu.machine.cpus):
        raise HypercallError(errno.ENOENT)
    target = cpu.machine.cpus[index]
    if command == VcpuOp.INITIALISE:
        with cpu.machine.changing_vcpus:
            initialise(cpu, index, argument)
        return 0
    if command in _CHANGES:
        with cpu.machine.changing_vcpus:
            _change(cpu, target, command, argument)
        return 0
    match command:
        case VcpuOp.IS_UP:
            return int(target.up)
        case VcpuOp.GET_RUNSTATE_INFO:
            cpu.write(argument, target.runstate.pack(cpu.machine.now()))
        case VcpuOp.REGISTER_RUNSTATE_MEMORY_AREA:
            target.runstate_va = cpu.read_u64(argument)
            target.publish_runstate()
        case VcpuOp.REGISTER_VCPU_TIME_MEMORY_AREA:
            target.show_time_at(cpu.read_u64(argument))
        case VcpuOp.SEND_NMI:
            target.send_nmi()
        case VcpuOp.GET_PHYSID:
            # Only a domain with pinned vCPUs may ask (xen/arch/x86/domain.c).
            raise HypercallError(errno.EINVAL)
        case _ if VcpuOp.SET_PERIODIC_TIMER <= command <= VcpuOp.STOP_SINGLESHOT_TIMER:
            _timer(cpu, target, command, argument)
        case _:
            raise HypercallError(errno.ENOSYS)
    return 0


def _change(cpu: Caller, target: Caller, command: int, argument: int) -> None:
    """Perform an operation that several vCPUs may try on `target` at once; needs the lock."""
    match command:
        case VcpuOp.UP:
            if not target.initialised:
                raise HypercallError(errno.EINVAL)
            target.bring_up()
        case VcpuOp.DOWN:
            target.take_down()
        case VcpuOp.REGISTER_VCPU_INFO:
            _register_info(cpu, target, argument)


def _timer(cpu: Caller, target: Caller, command: int, argument: int) -> None:
    if command == VcpuOp.SET_PERIODIC_TIMER:
        period = cpu.read_u64(argument)
        if not _MIN_PERIOD <= period <= _MAX_PERIOD:
            raise HypercallError(errno.EINVAL)
        _set_period(cpu, target, period)
        return
    if command == VcpuOp.STOP_PERIODIC_TIMER:
        _set_period(cpu, target, 0)
        return
    if target is not cpu:
        raise HypercallError(errno.EINVAL)
    if command == VcpuOp.STOP_SINGLESHOT_TIMER:
        target.timer.set_singleshot(0)
        return
    request = VcpuSetSingleshotTimer.load(cpu, argument)
    deadline = request.timeout_abs_ns
    if request.flags & xen.VCPU_SSHOTTMR_future and deadline < cpu.machine.now():
        raise HypercallError(errno.ETIME)
    target.timer.set_singleshot(deadline)


def _set_period(cpu: Caller, target: Caller, period: int) -> None:
    target.timer.set_periodic(period)
    if target is not cpu:
        target.kick()


def set_timer_op(cpu: Caller, deadline: int) -> int:
    """Set the singleshot timer to `deadline` ns of system time; 0 stops it."""
    now = cpu.machine.now()
    # Old Linux computes deadlines that overflow; Xen lets those expire soon.
    if deadline >> 63 or deadline - now >= _FAR:
        deadline = now + 100_000_000
    cpu.timer.set_singleshot(deadline)
    return 0


def _register_info(cpu: Caller, target: Caller, argument: int) -> None:
    request = VcpuRegisterVcpuInfo.load(cpu, argument)
    mfn, offset = request.mfn, request.offset
    if target.info_registered or offset > PAGE_SIZE - xen.VCPU_INFO_SIZE or offset % 8:
        raise HypercallError(errno.EINVAL)
    if not cpu.machine.owns(mfn) or (target is not cpu and target.up):
        raise HypercallError(errno.EINVAL)
    target.move_info((mfn << PAGE_SHIFT) + offset)
