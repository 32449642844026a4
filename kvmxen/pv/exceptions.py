"""Each trap that a guest takes is handled here, or bounced to the guest's kernel."""

from __future__ import annotations

from kvmxen.pv import emulate, m2p
from kvmxen.pv.cpu import Cpu
from kvmxen.pv.hypercalls.table import hypercall
from kvmxen.pv.shim.abi import constants
from kvmxen.xen.abi import x86, xen
from kvmxen.xen.abi.xen import CallbackType

_C = constants()
TRAP_SYSCALL = _C["TRAP_SYSCALL"]
TRAP_SYSCALL32 = _C["TRAP_SYSCALL32"]
TRAP_SYSENTER = _C["TRAP_SYSENTER"]
TRAP_BAD_IRET = _C["TRAP_BAD_IRET"]
TRAP_LOST_DEBUG = _C["TRAP_LOST_DEBUG"]
STUB_EVENT = _C["STUB_EVENT"]
STUB_TIMER = _C["STUB_TIMER"]

_MASK64 = (1 << 64) - 1
_SYSCALL_LENGTH = 2


def handle(cpu: Cpu, trap: int) -> None:
    """Handle `trap`, a number from PvVcpu.run."""
    vcpu = cpu.vcpu
    if trap == TRAP_SYSCALL:
        if vcpu.kernel_mode:
            result = hypercall(cpu, vcpu.rax, vcpu.arguments())
            if result is not None:
                vcpu.rax = result & (1 << 64) - 1
        else:
            _system_call(cpu, CallbackType.SYSCALL)
    elif trap == x86.TRAP_PAGE_FAULT:
        _page_fault(cpu)
    elif trap >= STUB_EVENT:
        _shim_trap(cpu, trap)
    elif trap == x86.TRAP_INVALID_OPCODE:
        _invalid_opcode(cpu)
    elif trap == x86.TRAP_GENERAL_PROTECTION:
        _general_protection(cpu)
    elif trap == x86.TRAP_DEBUG:
        _debug(cpu)
    else:
        inject(cpu, trap, vcpu.error_code)


def inject(cpu: Cpu, vector: int, error_code: int = 0) -> None:
    """Deliver exception `vector` to the guest's kernel."""
    flags, address = cpu.trap_table.get(vector, (0, 0))
    cpu.bounce(
        address,
        bool(flags & xen.TI_IF),
        error_code if x86.has_error_code(vector) else None,
    )


def _debug(cpu: Cpu) -> None:
    cpu.take_debug_status()
    inject(cpu, x86.TRAP_DEBUG)


def _system_call(cpu: Cpu, kind: CallbackType) -> None:
    """Deliver a system call of user code; it faults if the kernel has no callback for it, as in
    Xen's switch_to_kernel and sysenter_entry (xen/arch/x86/x86_64/entry.S)."""
    vcpu = cpu.vcpu
    address, mask_events = cpu.callbacks.get(kind, (0, False))
    if address and not vcpu.kernel_mode:
        cpu.bounce(address, mask_events, None)
    elif kind is CallbackType.SYSENTER:
        inject(cpu, x86.TRAP_GENERAL_PROTECTION)
    else:
        vcpu.rip = (vcpu.rip - _SYSCALL_LENGTH) & _MASK64
        inject(cpu, x86.TRAP_INVALID_OPCODE)


def _shim_trap(cpu: Cpu, trap: int) -> None:
    if trap == TRAP_SYSCALL32:
        _system_call(cpu, CallbackType.SYSCALL32)
    elif trap == TRAP_SYSENTER:
        _system_call(cpu, CallbackType.SYSENTER)
    elif trap == TRAP_BAD_IRET:
        # The guest gave iret a bad frame; its own return instruction would have faulted.
        inject(cpu, x86.TRAP_GENERAL_PROTECTION, cpu.vcpu.error_code & 0xFFFC)
    elif trap == TRAP_LOST_DEBUG:
        cpu.drop_debug_status()
    elif trap == STUB_TIMER:
        cpu.end_interrupt()
        cpu.timer_expired()
    elif trap == STUB_EVENT:
        cpu.end_interrupt()


def _page_fault(cpu: Cpu) -> None:
    vcpu = cpu.vcpu
    if vcpu.kernel_mode:
        if cpu.tables.repair(vcpu):
            return
        if m2p.is_out_of_reach(cpu, vcpu.cr2):
            _read_m2p(cpu)
            return
    _forward_page_fault(cpu)


def _read_m2p(cpu: Cpu) -> None:
    if m2p.load(cpu, cpu.vcpu.cr2):
        return
    stepping = cpu.vcpu.rflags & x86.EFL_TF
    trap = cpu.step_in_ring0()
    if trap == x86.TRAP_DEBUG and stepping:
        _debug(cpu)
    elif trap == x86.TRAP_DEBUG:
        cpu.drop_debug_status()
    elif trap == x86.TRAP_PAGE_FAULT:
        _forward_page_fault(cpu)
    else:
        inject(cpu, trap, cpu.vcpu.error_code)


def _forward_page_fault(cpu: Cpu) -> None:
    vcpu = cpu.vcpu
    cpu.machine.memory.write_u64(cpu.info_gpa + xen.VCPU_INFO_CR2, vcpu.cr2)
    error = vcpu.error_code & ~x86.PF_USER
    if not vcpu.kernel_mode:
        error |= x86.PF_USER
    inject(cpu, x86.TRAP_PAGE_FAULT, error)


def _invalid_opcode(cpu: Cpu) -> None:
    instruction = emulate.code(cpu)
    if emulate.forced_cpuid(cpu, instruction):
        return
    vector = emulate.software_interrupt(instruction)
    if vector is not None:
        _software_interrupt(cpu, vector)
    else:
        inject(cpu, x86.TRAP_INVALID_OPCODE)


def _general_protection(cpu: Cpu) -> None:
    vcpu = cpu.vcpu
    error = vcpu.error_code
    if error & x86.ERROR_IDT and not error & x86.ERROR_EXTERNAL:
        # Take the vector from the instruction: emulated CPUs double the one in the error code.
        vector = emulate.software_interrupt(emulate.code(cpu))
        _software_interrupt(cpu, error >> 3 if vector is None else vector)
    elif error or not emulate.privileged(cpu, emulate.code(cpu)):
        inject(cpu, x86.TRAP_GENERAL_PROTECTION, error)


def _software_interrupt(cpu: Cpu, vector: int) -> None:
    """`int vector`: a trap if the guest's table lets the caller raise it, else #GP."""
    flags, address = cpu.trap_table.get(vector, (0, 0))
    if address and flags & xen.TI_DPL >= (1 if cpu.vcpu.kernel_mode else 3):
        cpu.vcpu.rip = (cpu.vcpu.rip + 2) & _MASK64
        cpu.bounce(address, bool(flags & xen.TI_IF), None)
    else:
        inject(cpu, x86.TRAP_GENERAL_PROTECTION, vector << 3 | x86.ERROR_IDT)
