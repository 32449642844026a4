"""The CPUID that a guest sees: Xen's leaves, XSAVE in full, and nothing that it cannot use."""

from __future__ import annotations

import pytest

from kvmxen import cpuid
from kvmxen.cpuid import CpuidPolicy, host_entries
from kvmxen.kvm.structs import CpuidEntry
from tests.unit.forged import System

EVERY = 0xFFFFFFFF


def policy(*more: CpuidEntry) -> CpuidPolicy:
    return CpuidPolicy(
        [*System().supported_cpuid(), *more], xen_version=4 << 16 | 17, address_bits=36
    )


def test_xens_leaves() -> None:
    shown = policy()
    leaf, *signature = shown.leaf(0x40000000, 0, 0)
    assert leaf == 0x40000005
    assert b"".join(word.to_bytes(4, "little") for word in signature) == b"XenVMMXenVMM"
    assert shown.leaf(0x40000001, 0, 0)[0] == 4 << 16 | 17
    assert shown.leaf(0x40000005, 0, 0)[1] == 36
    # KVM's own signature is nowhere, nor is there a leaf beyond Xen's last.
    for function in range(0x40000006, 0x40000100):
        assert shown.leaf(function, 0, 0) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("function", "index", "register", "bit", "what"),
    [
        (1, 0, 2, 5, "VMX"), (1, 0, 2, 3, "MONITOR"), (1, 0, 2, 17, "PCID"),
        (1, 0, 2, 21, "x2APIC"), (1, 0, 2, 24, "TSC deadline"), (1, 0, 3, 3, "PSE"),
        (1, 0, 3, 12, "MTRR"), (1, 0, 3, 13, "PGE"), (1, 0, 3, 22, "ACPI"),
        (7, 0, 1, 0, "FSGSBASE"), (7, 0, 1, 7, "SMEP"), (7, 0, 1, 10, "INVPCID"),
        (7, 0, 1, 20, "SMAP"), (7, 0, 2, 3, "PKU"), (7, 0, 2, 16, "LA57"),
        (7, 0, 3, 26, "IBRS"), (0xD, 1, 0, 3, "XSAVES"), (0x80000001, 0, 2, 2, "SVM"),
        (0x80000001, 0, 3, 26, "1 GiB pages"), (0x80000001, 0, 3, 27, "RDTSCP"),
    ],
)  # fmt: skip
def test_hidden(function: int, index: int, register: int, bit: int, what: str) -> None:
    assert not policy().leaf(function, index, 0)[register] >> bit & 1


@pytest.mark.parametrize(
    ("function", "index", "register", "bit", "what"),
    [
        (1, 0, 2, 26, "XSAVE"), (1, 0, 2, 27, "OSXSAVE"), (1, 0, 2, 28, "AVX"),
        (1, 0, 2, 31, "a hypervisor"), (1, 0, 3, 26, "SSE2"), (7, 0, 1, 5, "AVX2"),
        (7, 0, 1, 16, "AVX-512"), (0xD, 1, 0, 0, "XSAVEOPT"), (0x80000001, 0, 3, 11, "SYSCALL"),
        (0x80000001, 0, 3, 20, "NX"), (0x80000001, 0, 3, 29, "long mode"),
    ],
)  # fmt: skip
def test_shown(function: int, index: int, register: int, bit: int, what: str) -> None:
    assert policy().leaf(function, index, 0)[register] >> bit & 1


def test_all_of_xcr0_is_the_guests() -> None:
    shown = policy()
    assert shown.xcr0 == 7
    # Its size is that of all components, whatever is enabled when it asks.
    assert shown.leaf(0xD, 0, 0)[:3] == (7, 832, 832)


def test_the_size_of_a_compact_area() -> None:
    components = [
        CpuidEntry(0xD, 1, 1, 0xF, 1, 0, 0),
        CpuidEntry(0xD, 2, 1, 256, 576, 0, 0),
        CpuidEntry(0xD, 0, 1, 0x27, 0, 2696, 0),
        CpuidEntry(0xD, 5, 1, 8, 1088, 2, 0),
    ]
    # The second component ends at 832, the fifth is aligned to 64 bytes.
    assert policy(*components).leaf(0xD, 1, 0)[1] == 832 + 8


def test_each_vcpu_has_its_id() -> None:
    ids = [policy().leaf(1, 0, vcpu)[1] >> 24 for vcpu in range(3)]
    assert ids == [0, 1, 2]


def test_the_topology_is_empty() -> None:
    assert policy().leaf(0xB, 0, 0) == policy().leaf(0xB, 1, 0) == (0, 0, 0, 0)


def test_sub_leaves_count_only_where_they_do() -> None:
    shown = policy()
    assert shown.leaf(1, 99, 0) == shown.leaf(1, 0, 0)
    assert shown.leaf(7, 99, 0) == (0, 0, 0, 0)
    assert shown.leaf(0x12345678, 0, 0) == (0, 0, 0, 0)


def test_what_kvm_is_told() -> None:
    entries = {(entry.function, entry.index): entry for entry in policy().entries(1)}
    # Our own interrupts need x2APIC and its timer's deadlines.
    assert entries[1, 0].ecx >> 21 & 1
    assert entries[1, 0].ecx >> 24 & 1
    assert entries[1, 0].ebx >> 24 == 1
    assert entries[7, 0].flags & 1
    assert entries[0x40000000, 0].ebx == 0x566E6558


def test_the_hosts_own_leaves_make_a_policy() -> None:
    entries = host_entries()
    assert {entry.function for entry in entries} >= {0, 1, 0x80000000, 0x80000001}
    shown = CpuidPolicy(entries, xen_version=1, address_bits=36)
    assert shown.xcr0 & 1
    assert not shown.leaf(1, 0, 0)[2] >> 5 & 1


def test_a_hidden_features_component_is_hidden() -> None:
    components = [
        CpuidEntry(0xD, 0, 1, 0x207, 2696, 2696, 0),
        CpuidEntry(0xD, 2, 1, 256, 576, 0, 0),
        CpuidEntry(0xD, 9, 1, 8, 2688, 0, 0),
    ]
    shown = policy(*components)
    assert shown.xcr0 == 7
    assert shown.leaf(0xD, 0, 0)[:3] == (7, 832, 832)
    assert shown.leaf(0xD, 9, 0) == (0, 0, 0, 0)


@pytest.mark.parametrize("clears", [True, False])
def test_null_selectors_are_as_the_cpu_has_them(
    monkeypatch: pytest.MonkeyPatch, clears: bool
) -> None:
    leaves = {0x80000000: (0x80000021, 0, 0, 0), 0x80000021: (1 << 2, 0, 0, 0)}
    monkeypatch.setattr(cpuid, "host_cpuid", lambda leaf, _index: leaves.get(leaf, (0, 0, 0, 0)))
    monkeypatch.setattr(cpuid, "null_selector_clears_base", lambda: clears)
    shown = policy(*host_entries())
    assert shown.leaf(0x80000021, 0, 0)[0] == (1 << 2 | clears << 6)
