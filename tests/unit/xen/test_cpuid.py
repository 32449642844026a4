"""The CPUID that a guest sees: Xen's leaves, XSAVE in full, and no feature that it cannot use."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmxen.kvm.structs import CpuidEntry
from kvmxen.xen.cpuid import EAX, EBX, ECX, EDX, QUESTIONS, CpuidPolicy, Vendor
from tests.unit.forged import System
from tests.unit.xen.cpuids import recorded

NOTHING = (0, 0, 0, 0)
EVERY = 0xFFFFFFFF
INTEL, AMD = "intel-software-kvm", "amd-software-kvm"
# (leaf, sub-leaf, register, bit) and the feature's name. Those for a PV kernel come first: it
# would write a control register or an MSR for them, or lose registers.
HIDDEN = {
    (1, 0, ECX, 3): "MONITOR", (1, 0, ECX, 5): "VMX", (1, 0, ECX, 15): "PDCM",
    (1, 0, ECX, 17): "PCID", (1, 0, ECX, 21): "x2APIC", (1, 0, ECX, 24): "TSC deadline",
    (1, 0, EDX, 3): "PSE", (1, 0, EDX, 7): "MCE", (1, 0, EDX, 12): "MTRR", (1, 0, EDX, 13): "PGE",
    (1, 0, EDX, 14): "MCA", (1, 0, EDX, 22): "ACPI",
    (7, 0, EBX, 0): "FSGSBASE", (7, 0, EBX, 1): "TSC_ADJUST", (7, 0, EBX, 2): "SGX",
    (7, 0, EBX, 7): "SMEP", (7, 0, EBX, 10): "INVPCID", (7, 0, EBX, 14): "MPX",
    (7, 0, EBX, 20): "SMAP", (7, 0, EBX, 25): "PT", (7, 0, ECX, 2): "UMIP", (7, 0, ECX, 3): "PKU",
    (7, 0, ECX, 4): "OSPKE", (7, 0, ECX, 5): "WAITPKG", (7, 0, ECX, 7): "shadow stacks",
    (7, 0, ECX, 16): "LA57", (7, 0, ECX, 22): "RDPID", (7, 0, ECX, 24): "bus lock detection",
    (7, 0, ECX, 29): "ENQCMD", (7, 0, ECX, 31): "PKS", (7, 0, EDX, 5): "UINTR",
    (7, 0, EDX, 18): "PCONFIG", (7, 0, EDX, 19): "LBR", (7, 0, EDX, 20): "IBT",
    (7, 0, EDX, 22): "AMX-BF16", (7, 0, EDX, 24): "AMX", (7, 0, EDX, 26): "IBRS",
    (7, 0, EDX, 29): "ARCH_CAPABILITIES", (7, 1, EAX, 17): "FRED", (7, 1, EAX, 26): "LAM",
    (7, 2, EDX, 4): "BHI_CTRL", (0xD, 1, EAX, 3): "XSAVES", (0xD, 1, EAX, 4): "XFD",
    (0x80000001, 0, ECX, 2): "SVM", (0x80000001, 0, ECX, 22): "TOPOEXT",
    (0x80000001, 0, EDX, 26): "1 GiB pages", (0x80000001, 0, EDX, 27): "RDTSCP",
    (0x80000008, 0, EBX, 12): "IBPB", (0x80000021, 0, EAX, 8): "automatic IBRS",
}  # fmt: skip
SHOWN = {
    (1, 0, ECX, 0): "SSE3", (1, 0, ECX, 26): "XSAVE", (1, 0, ECX, 27): "OSXSAVE",
    (1, 0, ECX, 28): "AVX", (1, 0, ECX, 31): "a hypervisor", (1, 0, EDX, 26): "SSE2",
    (7, 0, EBX, 5): "AVX2", (7, 0, EBX, 9): "ERMS", (0xD, 1, EAX, 0): "XSAVEOPT",
    (0xD, 1, EAX, 1): "XSAVEC", (0x80000001, 0, EDX, 11): "SYSCALL",
    (0x80000001, 0, EDX, 20): "NX", (0x80000001, 0, EDX, 29): "long mode",
}  # fmt: skip


def policy(available: Iterable[CpuidEntry]) -> CpuidPolicy:
    return CpuidPolicy(available, xen_version=4 << 16 | 17, address_bits=36)


def everything() -> CpuidPolicy:
    """The policy for a processor with every feature, beyond its own leaves too."""
    last = {(0, 0): 0x20, (0x80000000, 0): 0x80000040, (7, 0): 9}
    return policy(
        CpuidEntry(*question, 0, last.get(question, EVERY), EVERY, EVERY, EVERY)
        for question in QUESTIONS
    )


def has(shown: CpuidPolicy, feature: tuple[int, int, int, int]) -> bool:
    function, index, register, bit = feature
    return bool(shown.leaf(function, index, 0)[register] >> bit & 1)


def test_xens_leaves() -> None:
    shown = policy(System().supported_cpuid())
    leaf, *signature = shown.leaf(0x40000000, 0, 0)
    assert leaf == 0x40000005
    assert b"".join(word.to_bytes(4, "little") for word in signature) == b"XenVMMXenVMM"
    assert shown.leaf(0x40000001, 0, 0)[0] == 4 << 16 | 17
    assert shown.leaf(0x40000005, 0, 0)[1] == 36
    # KVM's own signature is nowhere, and there is no leaf beyond Xen's last.
    for function in range(0x40000006, 0x40000100):
        assert shown.leaf(function, 0, 0) == NOTHING


@pytest.mark.parametrize("feature", HIDDEN, ids=HIDDEN.values())
def test_hidden(feature: tuple[int, int, int, int]) -> None:
    assert not has(everything(), feature)


@pytest.mark.parametrize("feature", SHOWN, ids=SHOWN.values())
def test_shown(feature: tuple[int, int, int, int]) -> None:
    for shown in (everything(), policy(recorded(INTEL).ring3), policy(recorded(AMD).ring3)):
        if feature == (7, 0, EBX, 9) and shown.vendor is Vendor.AMD:
            continue
        assert has(shown, feature)


def test_a_pv_guest_on_intel_has_all_registers_that_its_programs_see() -> None:
    shown = policy(recorded(INTEL).ring3)
    assert shown.vendor is Vendor.INTEL
    # x87, SSE, AVX, AVX-512; not PKU, AMX, or supervisor components.
    assert shown.xcr0 == 0xE7
    assert shown.leaf(0xD, 0, 0) == (0xE7, 2688, 2688, 0)
    assert shown.leaf(0xD, 1, 0) == (7, 2432, 0, 0)
    assert [n for n in range(2, 64) if shown.leaf(0xD, n, 0) != NOTHING] == [2, 5, 6, 7]
    assert shown.leaf(7, 0, 0) == (2, 0xF1BF23EB & ~0x100083, 0x1A005F42, 0x00814410)
    assert shown.leaf(1, 0, 0)[ECX] == 0xFFF83203 & ~(1 << 21 | 1 << 24)
    assert shown.leaf(0, 0, 0)[EAX] == 0xD
    assert shown.leaf(0x80000008, 0, 0)[EAX] == 0x302E
    assert not any(shown.leaf(function, 0, 0)[EAX] for function in (0xB, 0x1D, 0x1E, 0x1F))


def test_a_pv_guest_on_amd_has_all_registers_that_its_programs_see() -> None:
    shown = policy(recorded(AMD).ring3)
    assert shown.vendor is Vendor.AMD
    assert shown.xcr0 == 7
    assert shown.leaf(0xD, 0, 0) == (7, 832, 832, 0)
    assert shown.leaf(0xD, 1, 0) == (7, 832, 0, 0)
    assert shown.leaf(1, 0, 0)[ECX] == 0xFFF83203 & ~(1 << 21 | 1 << 24)
    assert shown.leaf(7, 0, 0) == (0, 0x208C0128, 0, 0)


@pytest.mark.parametrize("name", [INTEL, AMD])
def test_without_xsave_there_is_nothing_that_needs_it(name: str) -> None:
    # These KVMs' own leaves have leaf 0xD, and AVX2 or VAES, but no XSAVE.
    shown = policy(recorded(name).kvm)
    assert shown.xcr0 == 0
    assert not any(has(shown, (1, 0, ECX, bit)) for bit in (12, 26, 27, 28, 29))
    assert not any(has(shown, (7, 0, EBX, bit)) for bit in (5, 16, 30, 31))
    assert not any(has(shown, (7, 0, ECX, bit)) for bit in (9, 10))
    assert {shown.leaf(0xD, n, 0) for n in range(64)} == {NOTHING}


@pytest.mark.parametrize(
    ("offered", "xcr0"), [(0xE7, 0xE7), (0xA7, 7), (0xE3, 3), (0x2FF, 0xE7), (2, 0), (0, 0)]
)
def test_features_go_with_their_registers(offered: int, xcr0: int) -> None:
    entries = recorded(INTEL).ring3
    for entry in entries:
        if (entry.function, entry.index) == (0xD, 0):
            entry.eax = offered
    shown = policy(entries)
    assert shown.xcr0 == xcr0
    assert has(shown, (1, 0, ECX, 26)) == bool(xcr0)
    avx, avx512 = bool(xcr0 & 4), bool(xcr0 & 0x20)
    # AVX FMA F16C AVX2 VAES VPCLMULQDQ AVX-VNNI
    for feature in (
        *((1, 0, ECX, bit) for bit in (12, 28, 29)),
        (7, 0, EBX, 5),
        (7, 0, ECX, 9),
        (7, 0, ECX, 10),
        (7, 1, EAX, 4),
    ):
        assert has(shown, feature) == avx, feature
    for feature in (
        *((7, 0, EBX, bit) for bit in (16, 17, 21, 28, 30, 31)),
        *((7, 0, ECX, bit) for bit in (1, 6, 11, 12, 14)),
        (7, 0, EDX, 23),
        (7, 1, EAX, 5),
    ):
        assert has(shown, feature) == avx512, feature


def test_the_size_of_a_compact_area() -> None:
    entries = [*recorded(INTEL).ring3, CpuidEntry(0xD, 7, 1, 8, 1088, 2, 0)]
    # The last component is aligned to 64 bytes in the compact form, if it says so.
    entries.append(CpuidEntry(0xD, 5, 1, 8, 2048, 0, 0))
    assert policy(entries).leaf(0xD, 1, 0)[EBX] == (832 + 8 + 512 + 63 & -64) + 8


def test_leaves_end_where_the_processor_ends_them() -> None:
    # Beyond the last leaf, Intel returns another leaf's answer.
    beyond = [CpuidEntry(7, 1, 1, EVERY, 0, 0, EVERY), CpuidEntry(0x80000008, 0, 0, EVERY, 7, 7, 7)]
    ends = [
        CpuidEntry(0, 0, 0, 7, 0, 0, 0),
        CpuidEntry(7, 0, 1, 0, EVERY, 0, 0),
        CpuidEntry(0x80000000, 0, 0, 0x80000001, 0, 0, 0),
    ]
    shown = policy([*System().supported_cpuid(), *beyond, *ends])
    assert shown.leaf(7, 1, 0) == shown.leaf(0x80000008, 0, 0) == shown.leaf(0xD, 0, 0) == NOTHING
    assert shown.xcr0 == 0


def test_each_vcpu_has_its_id() -> None:
    shown = policy(recorded(INTEL).ring3)
    assert [shown.leaf(1, 0, vcpu)[EBX] for vcpu in range(3)] == [
        vcpu << 24 | 1 << 16 | 0x0800 for vcpu in range(3)
    ]


def test_a_package_has_one_core_in_each_leaf_that_tells() -> None:
    # Linux 6.12 warns if leaf 4 has more cores than leaf 1 has logical processors.
    shown = policy(recorded(INTEL).ring3)
    assert shown.leaf(1, 0, 1)[EBX] >> 16 & 0xFF == 1
    caches = [shown.leaf(4, index, 1) for index in range(4)]
    assert [cache[EAX] for cache in caches] == [0x121, 0x122, 0x143, 0x163]
    assert all(cache[EBX] and cache[ECX] for cache in caches)


def test_sub_leaves_count_only_where_they_do() -> None:
    shown = policy(recorded(INTEL).ring3)
    assert shown.leaf(1, 99, 0) == shown.leaf(1, 0, 0)
    assert shown.leaf(7, 99, 0) == NOTHING
    assert shown.leaf(0x12345678, 0, 0) == NOTHING


def test_what_kvm_is_told() -> None:
    entries = {
        (entry.function, entry.index): entry for entry in policy(recorded(INTEL).ring3).entries(1)
    }
    # Our own interrupts need x2APIC and its timer's deadlines.
    assert entries[1, 0].ecx >> 21 & 1
    assert entries[1, 0].ecx >> 24 & 1
    assert entries[1, 0].ebx >> 24 == 1
    assert entries[7, 0].flags & 1
    assert entries[0x40000000, 0].ebx == 0x566E6558


@pytest.mark.parametrize("name", [INTEL, AMD])
def test_a_policy_shows_itself(name: str) -> None:
    host = recorded(name)
    shown = policy(host.ring3)
    assert shown.is_shown_by(shown.entries(3))
    assert not shown.is_shown_by(host.kvm)


@given(
    st.lists(
        st.builds(
            lambda question, *registers: CpuidEntry(*question, 0, *registers),
            st.sampled_from(QUESTIONS),
            *[st.integers(0, EVERY)] * 4,
        )
    )
)
def test_no_leaves_make_a_policy_that_does_not_show_itself(entries: list[CpuidEntry]) -> None:
    shown = policy(entries)
    assert shown.is_shown_by(shown.entries(0))
    assert not shown.xcr0 & ~0xE7
    assert bool(shown.xcr0) == has(shown, (1, 0, ECX, 26)) == has(shown, (1, 0, ECX, 27))
    assert not any(has(shown, feature) for feature in HIDDEN)


@pytest.mark.parametrize(
    "name", [b"GenuineIntel", b"AuthenticAMD", b"HygonGenuine", b"VIA VIA VIA "]
)
def test_vendors(name: bytes) -> None:
    b, d, c = (int.from_bytes(name[at : at + 4], "little") for at in (0, 4, 8))
    vendor = policy([CpuidEntry(0, 0, 0, 1, b, c, d)]).vendor
    assert vendor is (Vendor.OTHER if name.startswith(b"VIA") else Vendor(name))
