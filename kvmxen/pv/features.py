"""The processor features that ring 3 of a guest sees on this host, and which of them work there.

A KVM that runs ring 3 natively, without help from the hardware, cannot filter all of CPUID, and
its filter for one leaf says nothing about the next. So ring 3 executes CPUID for each leaf, and
tries each feature that a kernel would use because of its bit alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from ctypes import sizeof
from dataclasses import dataclass
from enum import Enum

from kvmxen.errors import GuestCrash
from kvmxen.kvm.memory import GuestMemory
from kvmxen.kvm.structs import CpuidEntry
from kvmxen.pv.ring3 import Ring3
from kvmxen.xen.abi import x86
from kvmxen.xen.cpuid import EAX, EBX, ECX, EDX, QUESTIONS, XEN_LEAF, CpuidPolicy, Feature

# CPUID by leaf and sub-leaf.
_Leaves = dict[tuple[int, int], CpuidEntry]

_AMD_FEATURES_2 = 0x80000021
_NULL_SELECTOR_CLEARS_BASE = 1 << 6
_X87 = 1
# next: mov (%rsi), %eax; mov 4(%rsi), %ecx; cpuid; mov %eax, 12(%rsi); mov %ebx, 16(%rsi)
# mov %ecx, 20(%rsi); mov %edx, 24(%rsi); add $40, %rsi; dec %ebp; jnz next
# %rsi points to %ebp CpuidEntry structures: questions first, then answers.
_ASK = bytes.fromhex("8b068b4e040fa289460c895e10894e148956184883c628ffcd75e5")
# xor %ecx, %ecx; xgetbv
_XGETBV = bytes.fromhex("31c90f01d0")
# mov %eax, %fs
_LOAD_FS = bytes.fromhex("8ee0")

_SLOT = 16
_NOP = b"\x90"
# For each feature, an instruction that exists if the feature does. %rsi points to a page; each may
# change %eax, %ecx, %edx and vector registers. XSAVE and its variants save only a header.
TRIALS = {
    Feature(1, 0, ECX, 0): "f20fd0c0",  # addsubps %xmm0, %xmm0
    Feature(1, 0, ECX, 1): "660f3a44c000",  # pclmulqdq $0, %xmm0, %xmm0
    Feature(1, 0, ECX, 9): "660f3800c0",  # pshufb %xmm0, %xmm0
    Feature(1, 0, ECX, 13): "480fc70e",  # cmpxchg16b (%rsi)
    Feature(1, 0, ECX, 19): "660f3817c0",  # ptest %xmm0, %xmm0
    Feature(1, 0, ECX, 20): "660f3837c0",  # pcmpgtq %xmm0, %xmm0
    Feature(1, 0, ECX, 22): "0f38f006",  # movbe (%rsi), %eax
    Feature(1, 0, ECX, 23): "f30fb8c0",  # popcnt %eax, %eax
    Feature(1, 0, ECX, 25): "660f38dcc0",  # aesenc %xmm0, %xmm0
    Feature(1, 0, ECX, 26): "31c031d20fae26",  # xor %eax, %eax; xor %edx, %edx; xsave (%rsi)
    Feature(1, 0, ECX, 28): "c5fc58c0",  # vaddps %ymm0, %ymm0, %ymm0
    Feature(1, 0, ECX, 30): "0fc7f0",  # rdrand %eax
    Feature(7, 0, EBX, 3): "c4e278f2c0",  # andn %eax, %eax, %eax
    Feature(7, 0, EBX, 5): "c5fdfec0",  # vpaddd %ymm0, %ymm0, %ymm0
    Feature(7, 0, EBX, 8): "c4e278f5c0",  # bzhi %eax, %eax, %eax
    Feature(7, 0, EBX, 16): "62f17c4858c0",  # vaddps %zmm0, %zmm0, %zmm0
    Feature(7, 0, EBX, 18): "0fc7f8",  # rdseed %eax
    Feature(7, 0, EBX, 19): "660f38f6c0",  # adcx %eax, %eax
    Feature(7, 0, EBX, 23): "660fae3e",  # clflushopt (%rsi)
    Feature(7, 0, EBX, 24): "660fae36",  # clwb (%rsi)
    Feature(7, 0, EBX, 29): "0f38c9c0",  # sha1msg1 %xmm0, %xmm0
    Feature(7, 0, ECX, 27): "0f38f906",  # movdiri %eax, (%rsi)
    Feature(7, 0, EDX, 14): "0f01e8",  # serialize
    Feature(0xD, 1, EAX, 0): "31c031d20fae36",  # xor, xor; xsaveopt (%rsi)
    Feature(0xD, 1, EAX, 1): "31c031d20fc726",  # xor, xor; xsavec (%rsi)
    Feature(0xD, 1, EAX, 2): "b9010000000f01d0",  # mov $1, %ecx; xgetbv
    Feature(0x80000008, 0, EBX, 0): "4889f00f01fc",  # mov %rsi, %rax; clzero
}
_REGISTERS = {EAX: "eax", EBX: "ebx", ECX: "ecx", EDX: "edx"}


class Filter(Enum):
    """How much of the CPUID given to KVM ring 3 sees: all, at least Xen's leaves, or none."""

    WHOLE = "filtered"
    PART = "filtered in part"
    NONE = "not filtered"


@dataclass(frozen=True)
class Features:
    """`leaves`: CPUID as ring 3 sees it, without what does not work there. `sets_xcr0`: ring 3
    gets the XCR0 given to KVM."""

    filter: Filter
    sets_xcr0: bool
    leaves: tuple[CpuidEntry, ...]


def look(memory: GuestMemory, ring3: Ring3, told: CpuidPolicy) -> Features:
    """Examine `ring3`, whose KVM was given `told` and its XCR0. Raises GuestCrash on a trap where
    none is possible."""
    sets_xcr0 = bool(told.xcr0)
    if told.xcr0:
        ring3.fd.set_xcr0(_X87)
        sets_xcr0 = _xgetbv(ring3) == _X87
        ring3.fd.set_xcr0(told.xcr0)
    leaves = _ask(memory, ring3)
    filter_ = _compare(leaves, told)
    leaves[0xD, 0].eax &= _xgetbv(ring3)
    for leaf, name, bit in _failing(ring3, leaves):
        setattr(leaf, name, getattr(leaf, name) & ~bit)
    # Without this bit Linux loads each selector twice, by hypercall; a hypervisor below us may have
    # hidden it (AMD64 Architecture Programmer's Manual 3).
    if _null_selector_clears_base(ring3):
        leaves[_AMD_FEATURES_2, 0].eax |= _NULL_SELECTOR_CLEARS_BASE
    return Features(filter_, sets_xcr0, tuple(leaves.values()))


def _compare(leaves: _Leaves, told: CpuidPolicy) -> Filter:
    xen = leaves[XEN_LEAF, 0]
    if (xen.eax, xen.ebx, xen.ecx, xen.edx) != told.leaf(XEN_LEAF, 0, 0):
        return Filter.NONE
    return Filter.WHOLE if told.is_shown_by(leaves.values()) else Filter.PART


def _ask(memory: GuestMemory, ring3: Ring3) -> _Leaves:
    questions = *QUESTIONS, (XEN_LEAF, 0)
    table = (CpuidEntry * len(questions))(*(CpuidEntry(*question) for question in questions))
    memory.write(ring3.data_gpa, bytes(table))
    ring3.load(_ASK)
    ring3.vcpu.rsi, ring3.vcpu.rbp = ring3.data_va, len(table)
    if ring3.run() != x86.TRAP_BREAKPOINT:
        raise GuestCrash("CPUID traps in ring 3")
    answers = type(table).from_buffer_copy(memory.read(ring3.data_gpa, sizeof(table)))
    return dict(zip(questions, answers, strict=True))


def _xgetbv(ring3: Ring3) -> int:
    """XCR0 in ring 3 (only its low half has bits today); 0 if there is none."""
    ring3.load(_XGETBV)
    return ring3.vcpu.rax if ring3.run() == x86.TRAP_BREAKPOINT else 0


def _failing(ring3: Ring3, leaves: _Leaves) -> Iterator[tuple[CpuidEntry, str, int]]:
    """Try the features in `leaves`. Yields the leaf, register and bit of each that traps."""
    shown, code = [], b""
    for feature, instructions in TRIALS.items():
        leaf, name = leaves[feature.leaf, feature.subleaf], _REGISTERS[feature.register]
        if getattr(leaf, name) >> feature.bit & 1:
            shown.append((leaf, name, 1 << feature.bit))
            code += bytes.fromhex(instructions).ljust(_SLOT, _NOP)
    ring3.load(code)
    ring3.vcpu.rsi = ring3.data_va
    slot = 0
    while ring3.run(slot * _SLOT) != x86.TRAP_BREAKPOINT:
        trapped = (ring3.vcpu.rip - ring3.code_va) // _SLOT
        if not slot <= trapped < len(shown):
            raise GuestCrash(f"a trap of ring 3 at {ring3.vcpu.rip:#x}")
        yield shown[trapped]
        slot = trapped + 1


def _null_selector_clears_base(ring3: Ring3) -> bool:
    sregs = ring3.fd.get_sregs()
    sregs.fs.base = ring3.data_va
    ring3.fd.set_sregs(sregs)
    ring3.load(_LOAD_FS)
    ring3.vcpu.rax = 0
    ring3.run()
    return bool(ring3.fd.get_sregs().fs.base == 0)
