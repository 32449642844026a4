"""The CPUID that a PV guest is shown.

The leaves that ring 3 of a guest sees on this host, without features that Xen hides from PV guests
(the annotations of xen/include/public/arch-x86/cpufeatureset.h, and xen/arch/x86/cpu-policy.c) or
that need an MSR or a control register that kvmxen does not virtualise, plus Xen's own leaves
(xen/include/public/arch-x86/cpuid.h). A PV kernel asks through the forced-emulation prefix;
ordinary CPUID returns the same through KVM_SET_CPUID2, if KVM filters it.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from kvmxen.kvm.structs import CpuidEntry

Leaf = tuple[int, int, int, int]


class Vendor(Enum):
    """The vendor string of leaf 0, which decides whose MSRs a guest expects."""

    INTEL = b"GenuineIntel"
    AMD = b"AuthenticAMD"
    HYGON = b"HygonGenuine"
    OTHER = b""


XEN_LEAF = 0x40000000
EAX, EBX, ECX, EDX = range(4)

_SIGNIFICANT_INDEX = 1
_ALL = 0xFFFFFFFF
_WHOLE = (_ALL,) * 4
_NOTHING = (0, 0, 0, 0)
_MAX_BASIC, _MAX_FEATURES = 0xD, 2
_EXTENDED, _MAX_EXTENDED = 0x80000000, 0x80000021
# Bits of XCR0: AVX, and three of AVX-512. x87 and SSE, 0 and 1, have a fixed place before these.
_COMPONENTS = (2, 5, 6, 7)
# Leaves whose answer depends on the sub-leaf.
_INDEXED = frozenset({4, 7, 0xD})


def bits(*positions: int) -> int:
    """The value with these bits set."""
    return sum(1 << position for position in positions)


# FPU DE TSC MSR PAE CX8 APIC CMOV PAT CLFLUSH MMX FXSR SSE SSE2 SS HTT
_LEAF_1_EDX = bits(0, 2, 4, 5, 6, 8, 9, 15, 16, 19, *range(23, 29))
# The bits of leaf 1's EDX that AMD repeats in leaf 0x80000001's.
_REPEATED = bits(*range(10), *range(12, 18), 23, 24)

# The leaves, and the bits of each register that are shown.
_SHOWN: dict[tuple[int, int], Leaf] = {
    (0, 0): _WHOLE,
    # ecx: SSE3 PCLMULQDQ SSSE3 FMA CX16 SSE4.1 SSE4.2 MOVBE POPCNT AES XSAVE AVX F16C RDRAND
    (1, 0): (
        0x0FFF0FFF,
        0xFFFF,
        bits(0, 1, 9, 12, 13, 19, 20, 22, 23, 25, 26, 28, 29, 30),
        _LEAF_1_EDX,
    ),
    (2, 0): _WHOLE,
    # Caches, not shared between vCPUs: kernels check that this leaf has no more cores than leaf 1
    # has logical processors.
    **{(4, index): (0x3FFF, _ALL, _ALL, _ALL) for index in range(5)},
    # ebx: BMI1 HLE AVX2 FDP-on-exceptions BMI2 ERMS RTM no-FPU-CS/DS AVX512F AVX512DQ RDSEED ADX
    #      AVX512-IFMA CLFLUSHOPT CLWB AVX512CD SHA AVX512BW AVX512VL
    # ecx: PREFETCHWT1 VBMI VBMI2 GFNI VAES VPCLMULQDQ VNNI BITALG VPOPCNTDQ CLDEMOTE MOVDIRI
    #      MOVDIR64B
    # edx: FSRM VP2INTERSECT MD_CLEAR SERIALIZE TSXLDTRK AVX512-FP16
    (7, 0): (
        _ALL,
        bits(3, 4, 5, 6, 8, 9, 11, 13, 16, 17, 18, 19, 21, 23, 24, *range(28, 32)),
        bits(0, 1, 6, 8, 9, 10, 11, 12, 14, 25, 27, 28),
        bits(4, 8, 10, 14, 16, 23),
    ),
    # eax: SHA512 SM3 SM4 AVX-VNNI AVX512-BF16 CMPCCXADD FZRM FSRS FSRCS AVX-IFMA MOVRS
    # edx: AVX-VNNI-INT8 AVX-NE-CONVERT AVX-VNNI-INT16 PREFETCHI
    (7, 1): (bits(0, 1, 2, 4, 5, 7, 10, 11, 12, 23, 31), 0, 0, bits(4, 5, 10, 14)),
    # edx: MCDT_NO
    (7, 2): (0, 0, 0, bits(5)),
    (0xD, 0): _WHOLE,
    # XSAVEOPT XSAVEC XGETBV1
    (0xD, 1): (bits(0, 1, 2), _ALL, 0, 0),
    **{(0xD, component): (_ALL, _ALL, bits(1), 0) for component in _COMPONENTS},
    (_EXTENDED, 0): _WHOLE,
    # ecx: LAHF CMP_LEGACY ABM SSE4A MISALIGNSSE 3DNOWPREFETCH XOP FMA4 TBM
    # edx: SYSCALL NX MMXEXT FFXSR LM 3DNOWEXT 3DNOW, and leaf 1's bits again
    (0x80000001, 0): (
        _ALL,
        0xFF00FFFF,
        bits(0, 1, 5, 6, 7, 8, 11, 16, 21),
        bits(11, 20, 22, 25, 29, 30, 31) | _LEAF_1_EDX & _REPEATED,
    ),
    **{(0x80000000 + index, 0): _WHOLE for index in range(2, 7)},
    # edx: ITSC
    (0x80000007, 0): (0, 0, 0, bits(8)),
    # ebx: CLZERO RSTR_FP_ERR_PTRS SSB_NO BTC_NO
    (0x80000008, 0): (0xFFFF, bits(0, 2, 26, 29), 0x3F0FF, 0),
    (0x80000019, 0): _WHOLE,
    (0x8000001A, 0): _WHOLE,
    # eax: NO_NEST_BP LFENCE_DISPATCH VERW_CLEAR NSCB FSRS FSRC EPSF FSRSC PREFETCHI SRSO_NO
    # ecx: TSA_SQ_NO TSA_L1_NO
    (0x80000021, 0): (bits(0, 2, 5, 6, 10, 11, 18, 19, 20, 29), 0, bits(1, 2), 0),
}
# Every leaf and sub-leaf that a policy is made from.
QUESTIONS = tuple(_SHOWN)


class Feature(NamedTuple):
    """A CPUID bit: its leaf, sub-leaf, register (EAX to EDX) and position."""

    leaf: int
    subleaf: int
    register: int
    bit: int


class State(NamedTuple):
    """Registers that XSAVE saves: their components of XCR0, the feature that announces them, and
    the bits of all features that use them."""

    components: int
    feature: Feature
    users: dict[tuple[int, int], Leaf]


_XSAVE = Feature(1, 0, ECX, 26)
_X87_SSE = bits(0, 1)
# Each state needs those before it.
_STATES = (
    State(
        bits(2),
        Feature(1, 0, ECX, 28),
        {
            (1, 0): (0, 0, bits(12, 28, 29), 0),
            (7, 0): (0, bits(5), bits(9, 10), 0),
            (7, 1): (bits(0, 1, 2, 4, 23), 0, 0, bits(4, 5, 10)),
            (0x80000001, 0): (0, 0, bits(11, 16), 0),
        },
    ),
    State(
        bits(5, 6, 7),
        Feature(7, 0, EBX, 16),
        {
            (7, 0): (0, bits(16, 17, 21, 28, 30, 31), bits(1, 6, 11, 12, 14), bits(8, 23)),
            (7, 1): (bits(5), 0, 0, 0),
        },
    ),
)
_OSXSAVE = bits(27)
_X2APIC_AND_DEADLINES = bits(21, 24)
_HYPERVISOR = bits(31)
_XEN_SIGNATURE = (0x566E6558, 0x65584D4D, 0x4D4D566E)
_PRESERVE_AD = 1
_LEGACY_AND_HEADER = 576
_ALIGNED = 2
_XSAVEC = bits(1)
# Not 57, which would need CR4.LA57: a PV guest does not have it.
_LINEAR_BITS = 48


def _and(leaf: Leaf, mask: Leaf) -> Leaf:
    a, b, c, d = (value & kept for value, kept in zip(leaf, mask, strict=True))
    return a, b, c, d


def _without(leaf: Leaf, mask: Leaf) -> Leaf:
    a, b, c, d = (~value for value in mask)
    return _and(leaf, (a, b, c, d))


class CpuidPolicy:
    """The leaves for a guest, made from `available`, the leaves that ring 3 of a guest sees on
    this host. Any other leaf is 0."""

    def __init__(
        self, available: Iterable[CpuidEntry], *, xen_version: int, address_bits: int
    ) -> None:
        self._leaves = dict.fromkeys(_SHOWN, _NOTHING)
        for entry in available:
            key = entry.function, entry.index if entry.function in _INDEXED else 0
            if key in _SHOWN:
                seen = entry.eax, entry.ebx, entry.ecx, entry.edx
                self._leaves[key] = _and(seen, _SHOWN[key])
        self._end()
        self.xcr0 = self._choose_states()
        self._show_states()
        self._show_the_rest()
        self._xen: dict[int, Leaf] = {
            0: (XEN_LEAF + 5, *_XEN_SIGNATURE),
            1: (xen_version, 0, 0, 0),
            2: (1, XEN_LEAF, _PRESERVE_AD, 0),
            3: _NOTHING,
            4: _NOTHING,
            5: (0, address_bits, 0, 0),
        }

    def _set(self, function: int, index: int, register: int, value: int) -> None:
        leaf = list(self._leaves[function, index])
        leaf[register] = value
        self._leaves[function, index] = (leaf[0], leaf[1], leaf[2], leaf[3])

    def _end(self) -> None:
        """End each range of leaves where Xen does, or earlier: beyond its last leaf a processor
        answers with another leaf's values."""
        for first, most in ((0, _MAX_BASIC), (_EXTENDED, _MAX_EXTENDED)):
            last = min(self._leaves[first, 0][EAX], most)
            self._set(first, 0, EAX, last)
            for key in self._leaves:
                if key[0] & _EXTENDED == first and key[0] > last:
                    self._leaves[key] = _NOTHING
        last = min(self._leaves[7, 0][EAX], _MAX_FEATURES)
        self._set(7, 0, EAX, last)
        for index in range(last + 1, _MAX_FEATURES + 1):
            self._leaves[7, index] = _NOTHING

    def _choose_states(self) -> int:
        """Remove features whose registers XSAVE would not save. Returns XCR0 with everything that
        the guest may enable."""
        offered = self._leaves[0xD, 0][EAX]
        xcr0 = _X87_SSE if self._has(_XSAVE) and offered & _X87_SSE == _X87_SSE else 0
        whole = bool(xcr0)
        for state in _STATES:
            offers = state.components & offered == state.components
            whole = whole and offers and self._has(state.feature)
            if whole:
                xcr0 |= state.components
                continue
            for key, mask in state.users.items():
                self._leaves[key] = _without(self._leaves[key], mask)
        return xcr0

    def _has(self, feature: Feature) -> bool:
        leaf = self._leaves[feature.leaf, feature.subleaf]
        return bool(leaf[feature.register] >> feature.bit & 1)

    def _show_states(self) -> None:
        """Make leaf 0xD agree with XCR0, which kernels check."""
        leaves = self._leaves
        size = compact = _LEGACY_AND_HEADER
        for component in _COMPONENTS:
            if not self.xcr0 >> component & 1:
                leaves[0xD, component] = _NOTHING
                continue
            length, offset, flags, _ = leaves[0xD, component]
            size = max(size, offset + length)
            compact = (compact + 63 & -64 if flags & _ALIGNED else compact) + length
        if self.xcr0:
            # The size for all of XCR0, because the guest will enable all of it.
            leaves[0xD, 0] = self.xcr0, size, size, 0
            self._set(0xD, 1, EBX, compact if leaves[0xD, 1][EAX] & _XSAVEC else 0)
        else:
            leaves[0xD, 0] = leaves[0xD, 1] = _NOTHING

    def _show_the_rest(self) -> None:
        ecx = self._leaves[1, 0][ECX] | _HYPERVISOR
        xsave = _OSXSAVE | 1 << _XSAVE.bit
        self._set(1, 0, ECX, ecx | xsave if self.xcr0 else ecx & ~xsave)
        sizes = self._leaves[0x80000008, 0][EAX]
        linear = min(sizes >> 8, _LINEAR_BITS)
        self._set(0x80000008, 0, EAX, linear << 8 | sizes & 0xFF)

    @property
    def vendor(self) -> Vendor:
        """The vendor of the processor that the guest sees."""
        _, b, c, d = self._leaves[0, 0]
        name = b"".join(word.to_bytes(4, "little") for word in (b, d, c))
        return Vendor(name) if name in {vendor.value for vendor in Vendor} else Vendor.OTHER

    def leaf(self, function: int, index: int, vcpu: int) -> Leaf:
        """(eax, ebx, ecx, edx) of `function`, sub-leaf `index`, on vCPU `vcpu`."""
        if function >> 16 == XEN_LEAF >> 16:
            return self._xen.get(function - XEN_LEAF, _NOTHING)
        if function not in _INDEXED:
            index = 0
        a, b, c, d = self._leaves.get((function, index), _NOTHING)
        if function == 1:
            b |= vcpu << 24 | 1 << 16
        return a, b, c, d

    def is_shown_by(self, seen: Iterable[CpuidEntry]) -> bool:
        """Whether `seen`, the leaves that some vCPU sees, makes the same policy."""
        return CpuidPolicy(seen, xen_version=0, address_bits=0)._leaves == self._leaves

    def has_subleaves(self, function: int) -> bool:
        """Whether the values of leaf `function` depend on the sub-leaf."""
        return function in _INDEXED

    def entries(self, vcpu: int) -> list[CpuidEntry]:
        """The policy for KVM_SET_CPUID2 on vCPU `vcpu`, with x2APIC for our own interrupts."""
        out = []
        for (function, index), shown in self._leaves.items():
            if not any(shown):
                continue
            a, b, c, d = self.leaf(function, index, vcpu)
            if function == 1:
                c |= _X2APIC_AND_DEADLINES
            flags = _SIGNIFICANT_INDEX if function in _INDEXED else 0
            out.append(CpuidEntry(function, index, flags, a, b, c, d))
        for offset, (a, b, c, d) in self._xen.items():
            out.append(CpuidEntry(XEN_LEAF + offset, 0, 0, a, b, c, d))
        return out
