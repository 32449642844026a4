"""Ways into and out of the guest's kernel: trap table, callbacks, stacks, iret, debug."""

from __future__ import annotations

import errno

from kvmxen.errors import HypercallError
from kvmxen.pv.bounce import iret as load_iret
from kvmxen.pv.cpu import Cpu
from kvmxen.xen.abi import x86, xen
from kvmxen.xen.abi.arch_xen import TrapInfo
from kvmxen.xen.abi.callback import CallbackRegister
from kvmxen.xen.abi.xen import CallbackType


def set_trap_table(cpu: Cpu, table: int) -> int:
    """Replace entries of the trap table; the list ends with address 0, and NULL clears all."""
    if not table:
        for vector in list(cpu.trap_table):
            cpu.set_trap(vector, 0, 0)
        return 0
    for index in range(257):
        trap = TrapInfo.load(cpu, table + index * TrapInfo.bits64.size)
        if not set_trap(cpu, trap.vector, trap):
            return 0
    raise HypercallError(errno.EINVAL)


def set_trap(cpu: Cpu, vector: int, trap: TrapInfo) -> bool:
    """Set the trap of `vector`; returns False at the end of a list (address 0)."""
    if not trap.address:
        return False
    if not x86.is_canonical(trap.address):
        raise HypercallError(errno.EINVAL)
    cpu.set_trap(vector, trap.flags, trap.address)
    return True


def set_callbacks(cpu: Cpu, event: int, failsafe: int, syscall: int) -> int:
    """Set the three callbacks of a 64-bit guest at once."""
    for kind, address in (
        (CallbackType.EVENT, event),
        (CallbackType.FAILSAFE, failsafe),
        (CallbackType.SYSCALL, syscall),
    ):
        register_callback(cpu, kind, address, 0)
    return 0


def register_callback(cpu: Cpu, kind: int, address: int, flags: int) -> None:
    """Set one callback; EINVAL for a non-canonical address, ENOSYS for an unknown kind."""
    if not x86.is_canonical(address):
        raise HypercallError(errno.EINVAL)
    if kind not in list(CallbackType):
        raise HypercallError(errno.ENOSYS)
    if kind == CallbackType.NMI:
        cpu.set_trap(x86.TRAP_NMI, xen.TI_IF, address)
    else:
        cpu.set_callback(CallbackType(kind), address, bool(flags & xen.CALLBACKF_mask_events))


def callback_op(cpu: Cpu, command: int, argument: int) -> int:
    """CALLBACKOP_register and _unregister."""
    command &= 0xFFFFFFFF
    if command == xen.CALLBACKOP_register:
        request = CallbackRegister.load(cpu, argument)
        register_callback(cpu, request.type, request.address, request.flags)
    elif command == xen.CALLBACKOP_unregister:
        kind = cpu.read_u16(argument)
        if kind != CallbackType.NMI:
            known = kind in list(CallbackType)
            raise HypercallError(errno.EINVAL if known else errno.ENOSYS)
        cpu.set_trap(x86.TRAP_NMI, 0, 0)
    else:
        raise HypercallError(errno.ENOSYS)
    return 0


def nmi_op(cpu: Cpu, command: int, argument: int) -> int:
    """XENNMI_register_callback (of vCPU 0) and _unregister_callback."""
    command &= 0xFFFFFFFF
    if command == xen.XENNMI_register_callback:
        if cpu.index:
            raise HypercallError(errno.EINVAL)
        address = cpu.read_u64(argument)
        register_callback(cpu, CallbackType.NMI, address, 0)
    elif command == xen.XENNMI_unregister_callback:
        cpu.set_trap(x86.TRAP_NMI, 0, 0)
    else:
        raise HypercallError(errno.ENOSYS)
    return 0


def stack_switch(cpu: Cpu, ss: int, sp: int) -> int:
    """Set the kernel's stack for traps from user mode; SS is flat in 64-bit mode."""
    cpu.kernel_sp = sp
    return 0


def fpu_taskswitch(cpu: Cpu, ts: int) -> int:
    """Set or clear CR0.TS."""
    cpu.vcpu.set_task_switched(bool(ts & 0xFFFFFFFF))
    return 0


def iret(cpu: Cpu) -> None:
    """Return from a trap or system call; loads every register, including the result's."""
    if load_iret(cpu.vcpu, cpu.tables, cpu.info_gpa):
        cpu.break_event_loop()


def set_debugreg(cpu: Cpu, register: int, value: int) -> int:
    """Set DR0-3, 6 or 7."""
    cpu.set_debug_register(register & 0xFFFFFFFF, value)
    return 0


def get_debugreg(cpu: Cpu, register: int) -> int:
    """DR0-3, 6 or 7."""
    return cpu.debug_register(register & 0xFFFFFFFF)
