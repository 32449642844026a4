"""The CPUID that a PV guest is shown.

KVM's supported leaves, less what a PV guest cannot use (Xen's policy for PV, xen/arch/x86/
cpu-policy.c), plus Xen's own leaves (xen/include/public/arch-x86/cpuid.h). A PV kernel asks
through the forced-emulation prefix, ordinary CPUID sees the same through KVM_SET_CPUID2 where
KVM filters it.
"""

from __future__ import annotations

from kvmxen.kvm.hostcpuid import host_cpuid, null_selector_clears_base
from kvmxen.kvm.structs import CpuidEntry

Leaf = tuple[int, int, int, int]

XEN_LEAF = 0x40000000
_SIGNIFICANT_INDEX = 1


def _bits(*positions: int) -> int:
    return sum(1 << position for position in positions)


_AMD_FEATURES_2 = 0x80000021
_NULL_SELECTOR_CLEARS_BASE = _bits(6)

# Bits taken away, by (leaf, subleaf) and register (eax, ebx, ecx, edx).
_HIDDEN: dict[tuple[int, int], tuple[int, int, int, int]] = {
    # ecx: DTES64 MONITOR DS-CPL VMX SMX EST TM2 XTPR PDCM PCID DCA X2APIC TSC-DEADLINE
    # edx: VME PSE MCE SEP MTRR PGE MCA PSE36 DS ACPI TM PBE
    (1, 0): (
        0,
        0,
        _bits(2, 3, 4, 5, 6, 7, 8, 14, 15, 17, 18, 21, 24),
        _bits(1, 3, 7, 11, 12, 13, 14, 17, 21, 22, 29, 31),
    ),
    # ebx: FSGSBASE TSC_ADJUST SMEP INVPCID MPX SMAP PT; ecx: UMIP PKU OSPKE WAITPKG CET LA57 RDPID
    # edx: CET-IBT and the speculation controls, which are MSRs
    (7, 0): (
        0,
        _bits(0, 1, 7, 10, 14, 20, 25),
        _bits(2, 3, 4, 5, 7, 16, 22),
        _bits(20, 26, 27, 28, 29, 30, 31),
    ),
    # XSAVES: supervisor state needs MSR_XSS, which is not virtualised
    (0xD, 1): (_bits(3), 0, 0, 0),
    # ecx: SVM EXTAPIC OSVW IBS SKINIT WDT LWP NODEID TOPOEXT PERFCTR and other counters, MWAITX
    # edx: PAGE1GB RDTSCP, and leaf 1's bits again
    (0x80000001, 0): (
        0,
        0,
        _bits(2, 3, 9, 10, 12, 13, 15, 19, 22, 23, 24, 26, 27, 28, 29),
        _bits(1, 3, 7, 12, 13, 14, 17, 26, 27),
    ),
    # ebx: INVLPGB RDPRU WBNOINVD and the speculation controls
    (0x80000008, 0): (0, _bits(3, 4, 9, *range(12, 32)), 0, 0),
    # eax: automatic IBRS, a bit of EFER
    (_AMD_FEATURES_2, 0): (_bits(8), 0, 0, 0),
}
# Components of XCR0 whose features are hidden: MPX's two, PKU's.
_HIDDEN_COMPONENTS = _bits(3, 4, 9)
# Leaves of hardware that the guest does not have: topology, performance counters, SVM, SEV.
_EMPTY = frozenset(
    {
        5,
        6,
        9,
        0xA,
        0xB,
        0xF,
        0x10,
        0x12,
        0x14,
        0x1B,
        0x1F,
        0x8000000A,
        0x8000001A,
        0x8000001B,
        0x8000001E,
        0x8000001F,
        0x80000020,
    }
)
_OSXSAVE = 1 << 27
_XSAVE = 1 << 26
_HYPERVISOR = 1 << 31
_XEN_SIGNATURE = (0x566E6558, 0x65584D4D, 0x4D4D566E)
_PRESERVE_AD = 1
_LEGACY_AND_HEADER = 576
_ALIGNED = 2
# Leaves with sub-leaves that count, and how many of them there can be.
_HOST_INDEXED = {4: 8, 7: 3, 0xD: 63, 0x8000001D: 8}


def host_entries() -> list[CpuidEntry]:
    """The host's own leaves, for where KVM lets a guest's ring 3 see them whatever it is told."""
    entries = []
    for base in (0, 0x80000000):
        for function in range(base, min(host_cpuid(base, 0)[0], base + 0x40) + 1):
            count = _HOST_INDEXED.get(function, 1)
            for index in range(count):
                flags = _SIGNIFICANT_INDEX if count > 1 else 0
                entries.append(CpuidEntry(function, index, flags, *host_cpuid(function, index)))
    # Without it Linux loads each selector twice, which is a hypercall.
    for entry in entries:
        if entry.function == _AMD_FEATURES_2 and null_selector_clears_base():
            entry.eax |= _NULL_SELECTOR_CLEARS_BASE
    return entries


class CpuidPolicy:
    """The leaves for a guest, from those that KVM supports or those of the host."""

    def __init__(self, available: list[CpuidEntry], *, xen_version: int, address_bits: int) -> None:
        self._leaves: dict[tuple[int, int], Leaf] = {}
        self._indexed: set[int] = set()
        for entry in available:
            if entry.function >> 28 == 4:
                continue
            if entry.flags & _SIGNIFICANT_INDEX:
                self._indexed.add(entry.function)
            self._leaves[entry.function, entry.index] = self._mask(entry)
        self._hide_components()
        self._xen: dict[int, Leaf] = {
            0: (XEN_LEAF + 5, *_XEN_SIGNATURE),
            1: (xen_version, 0, 0, 0),
            2: (1, XEN_LEAF, _PRESERVE_AD, 0),
            3: (0, 0, 0, 0),
            4: (0, 0, 0, 0),
            5: (0, address_bits, 0, 0),
        }
        self.xcr0 = self._xcr0()

    @staticmethod
    def _mask(entry: CpuidEntry) -> Leaf:
        if entry.function in _EMPTY:
            return 0, 0, 0, 0
        hidden = _HIDDEN.get((entry.function, entry.index), (0, 0, 0, 0))
        values = (entry.eax, entry.ebx, entry.ecx, entry.edx)
        a, b, c, d = (value & ~mask for value, mask in zip(values, hidden, strict=True))
        if entry.function == 1:
            c |= _HYPERVISOR
            if c & _XSAVE:
                c |= _OSXSAVE
        return a, b, c, d

    def _hide_components(self) -> None:
        """Take what is hidden out of XSAVE's leaves: kernels check that these agree."""
        a, b, c, d = self._leaves.get((0xD, 0), (0, 0, 0, 0))
        if not a & _HIDDEN_COMPONENTS:
            return
        for component in range(2, 32):
            if _HIDDEN_COMPONENTS >> component & 1:
                self._leaves.pop((0xD, component), None)
        a &= ~_HIDDEN_COMPONENTS
        areas = (self._leaves.get((0xD, n), (0, 0, 0, 0)) for n in range(2, 63))
        c = max(_LEGACY_AND_HEADER, *(offset + size for size, offset, _, _ in areas))
        self._leaves[0xD, 0] = a, b, c, d

    def _xcr0(self) -> int:
        eax, _, _, edx = self._leaves.get((0xD, 0), (0, 0, 0, 0))
        return edx << 32 | eax

    def leaf(self, function: int, index: int, vcpu: int) -> Leaf:
        """(eax, ebx, ecx, edx) of `function`, sub-leaf `index`, on vCPU `vcpu`."""
        if function >> 16 == XEN_LEAF >> 16:
            return self._xen.get(function - XEN_LEAF, (0, 0, 0, 0))
        if function not in self._indexed:
            index = 0
        a, b, c, d = self._leaves.get((function, index), (0, 0, 0, 0))
        if function == 1:
            b = b & 0x0000FFFF | vcpu << 24 | 1 << 16
        # The areas for all of XCR0, which is what the guest will have enabled.
        if (function, index) == (0xD, 0):
            b = c
        elif (function, index) == (0xD, 1) and b:
            b = self._compact_size()
        return a, b, c, d

    def has_subleaves(self, function: int) -> bool:
        """Whether the answer to leaf `function` depends on the sub-leaf that is asked for."""
        return function in self._indexed

    def _compact_size(self) -> int:
        """The size of a compacted XSAVE area with all of XCR0, in bytes."""
        size = _LEGACY_AND_HEADER
        for component in range(2, 63):
            if self.xcr0 >> component & 1:
                length, _, flags, _ = self._leaves.get((0xD, component), (0, 0, 0, 0))
                size = (size + 63 & -64 if flags & _ALIGNED else size) + length
        return size

    def entries(self, vcpu: int) -> list[CpuidEntry]:
        """The policy for KVM_SET_CPUID2 on vCPU `vcpu`, with x2APIC for our own interrupts."""
        out = []
        for function, index in self._leaves:
            a, b, c, d = self.leaf(function, index, vcpu)
            if function == 1:
                c |= 1 << 21 | 1 << 24
            flags = _SIGNIFICANT_INDEX if function in self._indexed else 0
            out.append(CpuidEntry(function, index, flags, a, b, c, d))
        for offset, (a, b, c, d) in self._xen.items():
            out.append(CpuidEntry(XEN_LEAF + offset, 0, 0, a, b, c, d))
        return out
