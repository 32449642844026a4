"""VCPUOP_*: bring vCPUs up and down, place their shared structures, set their timers.

Source: xen/include/public/vcpu.h, xen/common/domain.c; struct vcpu_guest_context of
xen/include/public/arch-x86/xen.h.
"""

from __future__ import annotations

import errno
from enum import IntEnum

from kvmxen.errors import HypercallError
from kvmxen.kvm.layout import PAGE_SHIFT, PAGE_SIZE
from kvmxen.pv.cpu import Cpu
from kvmxen.pv.hypercalls.segments import MAX_GDT_ENTRIES, gdt_pages, load_gdt
from kvmxen.pv.hypercalls.traps import set_callbacks, set_trap
from kvmxen.xen.abi import x86, xen
from kvmxen.xen.abi.arch_xen import VcpuGuestContext
from kvmxen.xen.abi.vcpu import VcpuRegisterVcpuInfo, VcpuSetSingleshotTimer

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
    request = VcpuSetSingleshotTimer.load(cpu, argument)
    deadline = request.timeout_abs_ns
    if request.flags & xen.VCPU_SSHOTTMR_future and deadline < cpu.machine.now():
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
    request = VcpuRegisterVcpuInfo.load(cpu, argument)
    mfn, offset = request.mfn, request.offset
    if target.info_registered or offset > PAGE_SIZE - xen.VCPU_INFO_SIZE or offset % 8:
        raise HypercallError(errno.EINVAL)
    if not cpu.tables.owns(mfn) or (target is not cpu and target.up):
        raise HypercallError(errno.EINVAL)
    target.move_info((mfn << PAGE_SHIFT) + offset)


def _initialise(cpu: Cpu, target: Cpu, argument: int) -> None:
    """Load a struct vcpu_guest_context into a vCPU that is not initialised."""
    if target.initialised:
        raise HypercallError(errno.EEXIST)
    context = VcpuGuestContext.load(cpu, argument)
    bases = context.fs_base, context.gs_base_kernel, context.gs_base_user
    if context.gdt_ents > MAX_GDT_ENTRIES or not all(map(x86.is_canonical, bases)):
        raise HypercallError(errno.EINVAL)
    for vector, trap in enumerate(context.trap_ctxt):
        set_trap(target, vector, trap)
    load_gdt(target, list(context.gdt_frames[: gdt_pages(context.gdt_ents)]))
    set_callbacks(
        target,
        context.event_callback_eip,
        context.failsafe_callback_eip,
        context.syscall_callback_eip,
    )
    target.kernel_sp = context.kernel_sp
    # xen_pfn_to_cr3: on x86-64 the frame has the same place as in the CPU's cr3.
    kernel, user = context.ctrlreg[3] >> PAGE_SHIFT, context.ctrlreg[1] >> PAGE_SHIFT
    target.set_base_pointers(kernel, user, cpu)
    target.set_registers(context.user_regs)
    for msr, base in (
        (x86.MSR_FS_BASE, context.fs_base),
        (x86.MSR_GS_BASE, context.gs_base_kernel),
        (x86.MSR_KERNEL_GS_BASE, context.gs_base_user),
    ):
        target.initial_msrs[msr] = base
    target.initialised = True
