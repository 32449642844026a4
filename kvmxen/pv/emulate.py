"""Emulates the instructions that trap because a PV guest's kernel runs in ring 3.

Source of the semantics: xen/arch/x86/pv/emul-priv-op.c. Each function either completes the
instruction and moves RIP past it, or changes nothing, and the trap is forwarded.
"""

from __future__ import annotations

from kvmxen.errors import GuestFault, HypercallError
from kvmxen.pv import ioports, msrs
from kvmxen.pv.cpu import Cpu
from kvmxen.xen.abi import x86

FORCED_PREFIX = b"\x0f\x0bxen"
_CPUID = b"\x0f\xa2"
_MAX_LENGTH = 15
_MASK64 = (1 << 64) - 1
_MASK32 = (1 << 32) - 1
_XCR0_X87, _XCR0_SSE, _XCR0_AVX, _XCR0_AVX512 = 1, 2, 4, 0xE0


def code(cpu: Cpu) -> bytes:
    """Up to 15 bytes of code at RIP, fewer if the next page is not mapped."""
    for length in (_MAX_LENGTH, 0x1000 - (cpu.vcpu.rip & 0xFFF)):
        try:
            return cpu.read_code(min(length, _MAX_LENGTH))
        except GuestFault:
            continue
    return b""


def forced_cpuid(cpu: Cpu, instruction: bytes) -> bool:
    """Emulate CPUID after Xen's forced-emulation prefix (`ud2; .ascii "xen"`); False if other."""
    if not instruction.startswith(FORCED_PREFIX + _CPUID):
        return False
    _cpuid(cpu)
    cpu.vcpu.rip = (cpu.vcpu.rip + len(FORCED_PREFIX) + len(_CPUID)) & _MASK64
    return True


def _cpuid(cpu: Cpu) -> None:
    vcpu = cpu.vcpu
    policy = cpu.machine.cpuid
    leaf, subleaf = vcpu.rax & _MASK32, vcpu.rcx & _MASK32
    answer = policy.leaf(leaf, subleaf, cpu.index)
    vcpu.remember_cpuid(leaf, subleaf if policy.has_subleaves(leaf) else None, *answer)
    vcpu.rax, vcpu.rbx, vcpu.rcx, vcpu.rdx = answer


def software_interrupt(instruction: bytes) -> int | None:
    """The vector of an `int n` instruction, None for any other."""
    return instruction[1] if len(instruction) > 1 and instruction[0] == 0xCD else None


def privileged(cpu: Cpu, instruction: bytes) -> bool:
    """Emulate the guest's privileged instruction; False if we do not emulate it."""
    rex, operand16, at = 0, False, 0
    while at < len(instruction):
        byte = instruction[at]
        if byte in (0x66, 0xF2, 0xF3, 0x2E, 0x3E, 0x26, 0x36, 0x64, 0x65):
            operand16 |= byte == 0x66
        elif byte & 0xF0 == 0x40:
            rex = byte
        else:
            break
        at += 1
    rest = instruction[at:]
    if not rest:
        return False
    length = _two_byte(cpu, rest[1:], rex) if rest[0] == 0x0F else _one_byte(cpu, rest, operand16)
    if not length:
        return False
    cpu.vcpu.rip = (cpu.vcpu.rip + at + length) & _MASK64
    return True


def _one_byte(cpu: Cpu, code: bytes, operand16: bool) -> int:
    """Returns the instruction's length without prefixes, 0 if we do not emulate it."""
    vcpu = cpu.vcpu
    opcode = code[0]
    if opcode in (0xFA, 0xFB):
        # cli and sti do nothing: a PV kernel masks events in its vcpu_info instead.
        return 1 if ioports.iopl_suffices(cpu) else 0
    if opcode & 0xF4 != 0xE4:
        return 0
    # in and out: the port is immediate or %dx, the data is in %al, %ax or %eax.
    length = 1 if opcode & 8 else 2
    if length > len(code):
        return 0
    port = vcpu.rdx & 0xFFFF if opcode & 8 else code[1]
    size = (2 if operand16 else 4) if opcode & 1 else 1
    if not ioports.may_access(cpu, port, size):
        return 0
    if not opcode & 2:
        mask = (1 << 8 * size) - 1
        # A write to a 32-bit register clears the upper half.
        kept = 0 if size == 4 else vcpu.rax & ~mask
        vcpu.rax = kept | ioports.value(port) & mask
    return length


def _two_byte(cpu: Cpu, code: bytes, rex: int) -> int:
    if not code or not cpu.vcpu.kernel_mode:
        return 0
    opcode = code[0]
    if opcode in (0x08, 0x09):
        return 2
    if opcode == 0x06:
        cpu.vcpu.set_task_switched(False)
        return 2
    if opcode == 0xA2:
        _cpuid(cpu)
        return 2
    if opcode in (0x30, 0x32):
        return 2 if (_write_msr(cpu) if opcode == 0x30 else _read_msr(cpu)) else 0
    if opcode in (0x20, 0x21, 0x22, 0x23) and len(code) > 1:
        register = x86.REGISTERS[code[1] & 7 | (rex & 1) << 3]
        number = code[1] >> 3 & 7 | (rex & 4) << 1
        return 3 if _move(cpu, opcode, number, register) else 0
    if opcode == 0x01 and code[1:2] == b"\xd1":
        return 3 if _xsetbv(cpu) else 0
    return 0


def _move(cpu: Cpu, opcode: int, number: int, register: str) -> bool:
    vcpu = cpu.vcpu
    value = getattr(vcpu, register)
    try:
        match opcode:
            case 0x20:
                found = cpu.control_register(number)
                if found is None:
                    return False
                setattr(vcpu, register, found)
            case 0x22:
                return cpu.set_control_register(number, value)
            case 0x21:
                setattr(vcpu, register, cpu.debug_register(number))
            case 0x23:
                cpu.set_debug_register(number, value)
    except HypercallError:
        return False
    return True


def _xsetbv(cpu: Cpu) -> bool:
    vcpu = cpu.vcpu
    value = (vcpu.rdx & _MASK32) << 32 | vcpu.rax & _MASK32
    if vcpu.rcx & _MASK32 or value & ~cpu.machine.cpuid.xcr0 or not _is_valid_xcr0(value):
        return False
    cpu.set_xcr0(value)
    return True


def _is_valid_xcr0(value: int) -> bool:
    """Whether the processor accepts these components together (xen/arch/x86/xstate.c)."""
    needed = _XCR0_X87
    if value & _XCR0_AVX:
        needed |= _XCR0_SSE
    if value & _XCR0_AVX512:
        needed |= _XCR0_AVX512 | _XCR0_AVX | _XCR0_SSE
    return value & needed == needed


def _read_msr(cpu: Cpu) -> bool:
    vcpu = cpu.vcpu
    value = msrs.read(cpu, vcpu.rcx & _MASK32)
    if value is None:
        return False
    vcpu.rax, vcpu.rdx = value & _MASK32, value >> 32
    return True


def _write_msr(cpu: Cpu) -> bool:
    vcpu = cpu.vcpu
    value = (vcpu.rdx & _MASK32) << 32 | vcpu.rax & _MASK32
    return msrs.write(cpu, vcpu.rcx & _MASK32, value)
