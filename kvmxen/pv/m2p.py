"""Reads of the machine-to-physical table at its old place, which some hosts' ring 3 cannot reach.

Guests that do not ask Xen for the table's place expect it in L4 slot 256. A plain load reads the
table itself, as in shim/m2p.c in the guest; any other instruction is stepped in ring 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from kvmxen.pv import emulate
from kvmxen.pv.cpu import Cpu
from kvmxen.xen.abi import x86, xen

_VA = xen.HYPERVISOR_VIRT_START
_SLOT = _VA >> 39
_MOV_LOAD = 0x8B
_REX_B, _REX_X, _REX_R, _REX_W = 1, 2, 4, 8
_SIB_FOLLOWS, _NO_INDEX, _NO_BASE = 4, 4, 5
_MASK64 = (1 << 64) - 1


@dataclass(frozen=True)
class Load:
    """`mov displacement(base, index, scale), register` of `size` bytes, `length` bytes long."""

    register: str
    size: int
    base: str | None
    index: str | None
    scale: int
    displacement: int
    length: int


@lru_cache(maxsize=64)
def decode(code: bytes) -> Load | None:
    """The load at the start of `code`; None unless it has 32 or 64 bits and no prefix but REX."""
    rex = code[0] if code and code[0] & 0xF0 == 0x40 else 0
    at = 1 if rex else 0
    # Missing bytes read as 0; the check of the length finds them.
    opcode, modrm, sib = (code[at:] + bytes(3))[:3]
    mod, base = modrm >> 6, modrm & 7
    if opcode != _MOV_LOAD or mod == 3 or (base == _NO_BASE and not mod):
        return None
    at += 2
    index, scale = _NO_INDEX, 1
    if base == _SIB_FOLLOWS:
        index, scale, base = sib >> 3 & 7 | (rex & _REX_X) << 2, 1 << (sib >> 6), sib & 7
        at += 1
    has_base = base != _NO_BASE or mod != 0
    size = 1 if mod == 1 else 4 if mod == 2 or not has_base else 0
    length = at + size
    if length > len(code):
        return None
    return Load(
        register=x86.REGISTERS[modrm >> 3 & 7 | (rex & _REX_R) << 1],
        size=8 if rex & _REX_W else 4,
        base=x86.REGISTERS[base | (rex & _REX_B) << 3] if has_base else None,
        index=x86.REGISTERS[index] if index != _NO_INDEX else None,
        scale=scale,
        displacement=int.from_bytes(code[at:length], "little", signed=True),
        length=length,
    )


def is_out_of_reach(cpu: Cpu, address: int) -> bool:
    """Whether it is this host that prevents the guest's kernel from reading `address`."""
    return address >> 39 == _SLOT and not cpu.machine.probe.reaches_xen_m2p


def load(cpu: Cpu, address: int) -> bool:
    """Emulate the kernel's instruction that could not read `address`, if it is a plain load from
    the table; else change nothing and return False."""
    vcpu = cpu.vcpu
    layout = cpu.machine.layout
    found = decode(emulate.code(cpu))
    offset = address - _VA
    # A kernel that single-steps itself must get its #DB.
    if found is None or vcpu.rflags & x86.EFL_TF or offset + found.size > layout.m2p_bytes:
        return False
    base = getattr(vcpu, found.base) if found.base else 0
    index = getattr(vcpu, found.index) if found.index else 0
    if (base + index * found.scale + found.displacement) & _MASK64 != address:
        return False
    entry = cpu.machine.memory.read(layout.m2p_gpa + offset, found.size)
    setattr(vcpu, found.register, int.from_bytes(entry, "little"))
    vcpu.rip = (vcpu.rip + found.length) & _MASK64
    return True
