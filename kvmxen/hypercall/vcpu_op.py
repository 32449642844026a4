"""VCPUOP_*: bring vCPUs up and down, place their shared structures, set their timers.

Source: xen/include/public/vcpu.h, xen/common/domain.c; struct vcpu_guest_context of
xen/include/public/arch-x86/xen.h.
"""

from __future__ import annotations

import errno
import struct
from enum import IntEnum

from kvmxen.abi import x86, xen
from kvmxen.abi.xen import CallbackType
from kvmxen.cpu import Cpu
from kvmxen.errors import HypercallError
from kvmxen.hypercall.segments import load_gdt
from kvmxen.hypercall.traps import register_callback, set_trap
from kvmxen.layout import PAGE_SHIFT, PAGE_SIZE

# struct vcpu_guest_context without the FPU image.
_CONTEXT_SIZE = 5168
_USER_REGS = struct.Struct("<15QII Q HBBI QQ H6x H6x H6x H6x H6x".replace(" ", ""))
_USER_REGS_AT = 520
_TRAPS_AT = 720
_TRAP_SIZE = 16
_TAIL = struct.Struct("<2Q 16QQ 2Q 8Q 8Q 3Q Q 3Q".replace(" ", ""))
_TAIL_AT = _TRAPS_AT + 256 * _TRAP_SIZE
_FAR = 1 << 50
_MIN_PERIOD = 1_000_000
_MAX_PERIOD = 1_000_000_000 * 86_400


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


_CHANGES = frozenset({VcpuOp.INITIALISE, VcpuOp.UP, VcpuOp.DOWN, VcpuOp.REGISTER_VCPU_INFO})


def vcpu_op(cpu: Cpu, command: int, index: int, argument: int) -> int:
    """Perform one VCPUOP on vCPU `index`."""
    command, index = command & 0xFFFFFFFF, index & 0xFFFFFFFF
    if index >= len(cpu.machine.cpus):
        raise HypercallError(errno.ENOENT)
    target = cpu.machine.cpus[index]
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


def _change(cpu: Cpu, target: Cpu, command: int, argument: int) -> None:
    """Perform an operation that several vCPUs may try on `target` at once; needs the lock."""
    match command:
        case VcpuOp.INITIALISE:
            _initialise(cpu, target, argument)
        case VcpuOp.UP:
            if not target.initialised:
                raise HypercallError(errno.EINVAL)
            target.bring_up()
        case VcpuOp.DOWN:
            target.take_down()
        case VcpuOp.REGISTER_VCPU_INFO:
            _register_info(cpu, target, argument)


def _timer(cpu: Cpu, target: Cpu, command: int, argument: int) -> None:
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
    deadline, flags = struct.unpack("<QI", cpu.read(argument, 12))
    if flags & xen.VCPU_SSHOTTMR_future and deadline < cpu.machine.now():
        raise HypercallError(errno.ETIME)
    target.timer.set_singleshot(deadline)


def _set_period(cpu: Cpu, target: Cpu, period: int) -> None:
    target.timer.set_periodic(period)
    if target is not cpu:
        target.kick()


def set_timer_op(cpu: Cpu, deadline: int) -> int:
    """Set the singleshot timer to `deadline` ns of system time; 0 stops it."""
    now = cpu.machine.now()
    # Old Linux computes deadlines that overflow; Xen lets those expire soon.
    if deadline >> 63 or deadline - now >= _FAR:
        deadline = now + 100_000_000
    cpu.timer.set_singleshot(deadline)
    return 0


def _register_info(cpu: Cpu, target: Cpu, argument: int) -> None:
    mfn, offset = struct.unpack("<QI", cpu.read(argument, 12))
    if target.info_registered or offset > PAGE_SIZE - xen.VCPU_INFO_SIZE or offset % 8:
        raise HypercallError(errno.EINVAL)
    if not cpu.tables.owns(mfn) or (target is not cpu and target.up):
        raise HypercallError(errno.EINVAL)
    target.move_info((mfn << PAGE_SHIFT) + offset)


def _initialise(cpu: Cpu, target: Cpu, argument: int) -> None:
    """Load a struct vcpu_guest_context into a vCPU that is not initialised."""
    if target.initialised:
        raise HypercallError(errno.EEXIST)
    context = cpu.read(argument, _CONTEXT_SIZE)
    registers = _USER_REGS.unpack_from(context, _USER_REGS_AT)
    tail = _TAIL.unpack_from(context, _TAIL_AT)
    gdt_frames, gdt_entries = tail[2:18], tail[18]
    kernel_sp, control = tail[20], tail[21:29]
    event, failsafe, syscall = tail[37:40]
    fs_base, gs_kernel, gs_user = tail[41:44]
    if gdt_entries > 7168 or not all(map(x86.is_canonical, (fs_base, gs_kernel, gs_user))):
        raise HypercallError(errno.EINVAL)
    for start in range(_TRAPS_AT, _TAIL_AT, _TRAP_SIZE):
        entry = bytearray(context[start : start + _TRAP_SIZE])
        entry[0] = (start - _TRAPS_AT) // _TRAP_SIZE
        set_trap(target, bytes(entry))
    load_gdt(target, list(gdt_frames[: -(-gdt_entries // 512)]))
    for kind, address in (
        (CallbackType.EVENT, event),
        (CallbackType.FAILSAFE, failsafe),
        (CallbackType.SYSCALL, syscall),
    ):
        register_callback(target, kind, address, 0)
    target.kernel_sp = kernel_sp
    # xen_pfn_to_cr3: on x86-64 the frame has the same place as in the CPU's cr3.
    target.set_base_pointers(control[3] >> PAGE_SHIFT, control[1] >> PAGE_SHIFT, cpu)
    target.set_registers(registers)
    for msr, base in (
        (x86.MSR_FS_BASE, fs_base),
        (x86.MSR_GS_BASE, gs_kernel),
        (x86.MSR_KERNEL_GS_BASE, gs_user),
    ):
        target.initial_msrs[msr] = base
    target.initialised = True
