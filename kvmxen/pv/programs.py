"""The CPU features that a guest's programs can use on this host, but that no boot depends on: for
the user's information and for tests."""

from __future__ import annotations

from dataclasses import dataclass

from kvmxen.pv.machine import Machine
from kvmxen.pv.ring3 import Ring3
from kvmxen.pv.shim.start import load_ldt
from kvmxen.xen.abi import x86, xen

_DATUM = 0x1122334455667788
# movq $1, (%rsi); nop
_STORE = bytes.fromhex("48c7060100000090")
# mov %eax, %gs; mov %gs:(%rdx), %rbx - and, after a trap: mov %gs, %ecx
_LOAD_GS = bytes.fromhex("8ee865488b1a")
_READ_GS = bytes.fromhex("8ce9")
# DR7: the first breakpoint enabled, for writes of eight bytes.
_DR7_WRITE = x86.DR7_FIXED | 1 | 1 << 16 | 2 << 18
_LDT_SELECTOR = 7
# A data segment of ring 3 that covers everything above its base.
_BASE = 0x1000
_SEGMENT = 0x00CFF3000000FFFF | _BASE << 16


@dataclass(frozen=True)
class Programs:
    """`breakpoints`: a data breakpoint of the debug registers fires. `segments`: ring 3 can use the
    segments that it loads from the GDT and the LDT, as 32-bit code must, and keeps them through a
    trap."""

    breakpoints: bool
    segments: bool


def look_at_programs(machine: Machine) -> Programs:
    """Try the features on vCPU 0 of `machine`, which has no dispatcher and has not run a guest.

    Raises GuestCrash if the trial ends the vCPU.
    """
    ring3 = Ring3(machine.memory, machine.image, machine.cpus[0].fd, xcr0=machine.cpuid.xcr0)
    return Programs(_breakpoints(ring3), _segments(ring3, machine))


def _breakpoints(ring3: Ring3) -> bool:
    registers = ring3.fd.get_debugregs()
    registers.db[0], registers.dr7 = ring3.data_va, _DR7_WRITE
    ring3.fd.set_debugregs(registers)
    ring3.vcpu.rsi = ring3.data_va
    ring3.load(_STORE)
    fired = ring3.run() == x86.TRAP_DEBUG
    registers.db[0], registers.dr7 = 0, x86.DR7_FIXED
    ring3.fd.set_debugregs(registers)
    return fired


def _segments(ring3: Ring3, machine: Machine) -> bool:
    machine.memory.write_u64(ring3.data_gpa, _DATUM)
    machine.memory.write_u64(machine.cpus[0].ldt_gpa, _SEGMENT)
    load_ldt(ring3.fd, machine.image, 1)
    return _keeps(ring3, xen.FLAT_RING3_SS, 0) and _keeps(ring3, _LDT_SELECTOR, _BASE)


def _keeps(ring3: Ring3, selector: int, base: int) -> bool:
    vcpu = ring3.vcpu
    vcpu.rax, vcpu.rdx = selector, ring3.data_va - base
    ring3.load(_LOAD_GS)
    if ring3.run() != x86.TRAP_BREAKPOINT or vcpu.rbx != _DATUM:
        return False
    ring3.load(_READ_GS)
    return ring3.run() == x86.TRAP_BREAKPOINT and vcpu.rcx == selector
