"""The MSRs that a PV guest may read and write, by the vendor that it sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmxen.kvm.structs import CpuidEntry
from kvmxen.pv import msrs
from kvmxen.pv.features import Features, Filter
from kvmxen.xen.abi import x86
from kvmxen.xen.abi.xen import XEN_PAT
from kvmxen.xen.cpuid import Vendor
from tests.unit.forged import Domain, System

INTEL, AMD, HYGON, OTHER = Vendor.INTEL, Vendor.AMD, Vendor.HYGON, Vendor.OTHER
ALL = frozenset(Vendor)
AMDS = frozenset({AMD, HYGON})


def domain_of(vendor: Vendor) -> Domain:
    """A domain on a processor of `vendor`, whose kernel has a handler for #GP."""
    name = vendor.value.ljust(12)
    b, d, c = (int.from_bytes(name[at : at + 4], "little") for at in (0, 4, 8))
    leaves = [*System().supported_cpuid(), CpuidEntry(0, 0, 0, 0xD, b, c, d)]
    domain = Domain(vcpus=2, features=Features(Filter.WHOLE, True, tuple(leaves)))
    domain.cpu.set_trap(x86.TRAP_GENERAL_PROTECTION, 0, 0xFFFFFFFF81000000)
    return domain


@pytest.fixture(scope="module")
def domains() -> Iterator[Callable[[Vendor], Domain]]:
    made = {vendor: domain_of(vendor) for vendor in Vendor}
    yield made.__getitem__
    for domain in made.values():
        domain.machine.close()


# (first, last, value, who reads it); any other MSR is #GP. Xen's rules, written out again.
READS = [
    (0x0, 0x1, 0, ALL),  # P5_MC_ADDR, P5_MC_TYPE
    (0x17, 0x17, 0, {INTEL}),  # PLATFORM_ID
    (0x1B, 0x1B, 0xFEE00900, ALL),  # APIC_BASE of the bootstrap processor
    (0x3A, 0x3A, 1, {INTEL}),  # FEATURE_CONTROL: locked
    (0xC1, 0xC8, 0, {INTEL}),  # PERFCTR
    (0xCE, 0xCE, 0, ALL),  # PLATFORM_INFO: no CPUID faulting
    (0x140, 0x140, 0, ALL),  # MISC_FEATURES_ENABLES
    (0x179, 0x17B, 0, ALL),  # MCG_CAP, MCG_STATUS, MCG_CTL
    (0x186, 0x18D, 0, {INTEL}),  # PERFEVTSEL
    (0x198, 0x199, 0, {INTEL}),  # PERF_STATUS, PERF_CTL
    (0x19C, 0x19C, 0, {INTEL}),  # THERM_STATUS
    (0x1A0, 0x1A0, 0x801801, {INTEL}),  # MISC_ENABLE
    (0x277, 0x277, 0x50100070406, ALL),  # PAT
    (0x280, 0x29F, 0, ALL),  # MCi_CTL2
    (0x309, 0x30B, 0, {INTEL}),  # FIXED_CTR
    (0x345, 0x345, 0, ALL),  # PERF_CAPABILITIES
    (0x38D, 0x390, 0, {INTEL}),  # FIXED_CTR_CTRL to GLOBAL_OVF_CTRL
    (0x400, 0x47F, 0, ALL),  # MCi_CTL, _STATUS, _ADDR, _MISC
    (0xC0000080, 0xC0000080, 0xD01, ALL),  # EFER
    (0xC0010000, 0xC0010007, 0, AMDS),  # PERF_CTL, PERF_CTR
    (0xC0010015, 0xC0010015, 1 << 24, AMDS),  # HWCR
    (0xC001001F, 0xC001001F, 0, ALL),  # NB_CFG
    (0xC0010041, 0xC0010042, 0, {AMD}),  # FID_VID
    (0xC0010061, 0xC001006B, 0, {AMD}),  # PSTATE
    (0xC0010200, 0xC001020B, 0, AMDS),  # PERF_CTL, PERF_CTR of family 0x15
    (0xC0011029, 0xC0011029, 2, AMDS),  # DE_CFG: LFENCE serialises
]
# (first, last, a value, who can write it).
WRITES = [
    (0x8B, 0x8B, 0, {INTEL}),  # IA32_BIOS_SIGN_ID
    (0xC1, 0xC8, 7, {INTEL}),
    (0xE7, 0xE8, 0, {INTEL, AMD, HYGON}),  # MPERF, APERF
    (0x140, 0x140, 0, ALL),
    (0x179, 0x17B, 7, ALL),
    (0x186, 0x18D, 7, {INTEL}),
    (0x199, 0x19A, 7, {INTEL}),  # PERF_CTL, THERM_CONTROL
    (0x1A0, 0x1A0, 7, {INTEL}),
    (0x1B0, 0x1B0, 7, {INTEL}),  # ENERGY_PERF_BIAS
    (0x280, 0x29F, 7, ALL),
    (0x309, 0x30B, 7, {INTEL}),
    (0x38D, 0x390, 7, {INTEL}),
    (0x400, 0x47F, 7, ALL),
    (0xC0000080, 0xC0000080, 0xD01, ALL),
    (0xC0010000, 0xC0010007, 7, AMDS),
    (0xC0010015, 0xC0010015, 7, AMDS),
    (0xC001001F, 0xC001001F, 7, ALL),
    (0xC0010041, 0xC0010042, 7, AMDS),
    (0xC0010061, 0xC001006B, 7, AMDS),
    (0xC0010200, 0xC001020B, 7, AMDS),
    (0xC0011029, 0xC0011029, 7, AMDS),
]
# Neighbours of the above, and MSRs of features that no guest sees.
_AROUND = {
    edge for first, last, *_ in READS + WRITES for edge in (first - 1, first, last, last + 1)
}
EDGES = sorted(_AROUND - {-1, x86.MSR_MICROCODE, x86.MSR_TSC} | {
    0x33, 0x34, 0x48, 0x49, 0x10A, 0x10B, 0x10F, 0x122, 0x123, 0x1D9, 0x4D0, 0x6A0, 0x800, 0xDA0,
    0x40000000, 0x400000FF, 0xC0000081, 0xC0000103, 0xC0010010, 0xC0010058, 0xC001011F,
    0xC0011027, 0xFFFFFFFF,
})  # fmt: skip


@pytest.mark.parametrize("vendor", Vendor)
def test_reads(domains: Callable[[Vendor], Domain], vendor: Vendor) -> None:
    def expected(index: int) -> int | None:
        for first, last, value, readers in READS:
            if first <= index <= last and vendor in readers:
                return value
        return None

    cpu = domains(vendor).cpu
    assert {i: msrs.read(cpu, i) for i in EDGES} == {i: expected(i) for i in EDGES}


@pytest.mark.parametrize("vendor", Vendor)
def test_writes(domains: Callable[[Vendor], Domain], vendor: Vendor) -> None:
    cpu = domains(vendor).cpu
    for first, last, value, writers in WRITES:
        for index in {first, last}:
            before = msrs.read(cpu, index)
            assert msrs.write(cpu, index, value) == (vendor in writers), hex(index)
            assert msrs.read(cpu, index) == before
    writable = [range(first, last + 1) for first, last, _, who in WRITES if vendor in who]
    for index in EDGES:
        if not any(index in span for span in writable):
            assert not msrs.write(cpu, index, 0), hex(index)


@pytest.mark.parametrize("vendor", Vendor)
def test_what_a_write_must_not_change(domains: Callable[[Vendor], Domain], vendor: Vendor) -> None:
    cpu = domains(vendor).cpu
    assert not msrs.write(cpu, x86.MSR_EFER, 0xD00)
    assert not msrs.write(cpu, x86.MSR_MISC_FEATURES_ENABLES, 1)
    assert not msrs.write(cpu, x86.MSR_MICROCODE, 1)
    assert not msrs.write(cpu, x86.MSR_PAT, XEN_PAT)
    assert not msrs.write(cpu, x86.MSR_APIC_BASE, 0xFEE00900)


@pytest.mark.parametrize("vendor", Vendor)
def test_the_microcode_is_as_kvm_has_it(
    domains: Callable[[Vendor], Domain], vendor: Vendor
) -> None:
    cpu = domains(vendor).cpu
    cpu.fd.set_msr(x86.MSR_MICROCODE, 0x100000000)
    assert msrs.read(cpu, x86.MSR_MICROCODE) == (0x100000000 if vendor in {INTEL, AMD} else None)


def test_only_the_first_vcpu_is_the_bootstrap_processor(
    domains: Callable[[Vendor], Domain],
) -> None:
    assert msrs.read(domains(INTEL).cpus[1], x86.MSR_APIC_BASE) == 0xFEE00800


@pytest.mark.parametrize("index", [x86.MSR_FS_BASE, x86.MSR_GS_BASE, x86.MSR_KERNEL_GS_BASE])
def test_bases_are_written_if_they_are_canonical(
    domains: Callable[[Vendor], Domain], index: int
) -> None:
    cpu = domains(AMD).cpu
    assert msrs.write(cpu, index, 0xFFFF888000001000)
    assert msrs.read(cpu, index) == 0xFFFF888000001000
    assert not msrs.write(cpu, index, 1 << 47)
    assert msrs.read(cpu, index) == 0xFFFF888000001000


def test_the_time_stamp_counter_is_read(domains: Callable[[Vendor], Domain]) -> None:
    cpu = domains(AMD).cpu
    cpu.fd.set_msr(x86.MSR_TSC, 123)
    assert msrs.read(cpu, x86.MSR_TSC) == 123
    assert not msrs.write(cpu, x86.MSR_TSC, 5)


def test_a_kernel_that_cannot_handle_a_fault_yet_reads_zero() -> None:
    domain = domain_of(AMD)
    domain.cpu.set_trap(x86.TRAP_GENERAL_PROTECTION, 0, 0)
    assert msrs.read(domain.cpu, x86.MSR_FEATURE_CONTROL) == 0
    assert msrs.read(domain.cpu, 0x40000001) is None
    assert not msrs.write(domain.cpu, x86.MSR_FEATURE_CONTROL, 0)
    domain.machine.close()


@settings(max_examples=500)
@given(vendor=st.sampled_from(Vendor), index=st.integers(0, 0xFFFFFFFF) | st.sampled_from(EDGES))
def test_no_msr_reads_more_than_64_bits(
    domains: Callable[[Vendor], Domain], vendor: Vendor, index: int
) -> None:
    value = msrs.read(domains(vendor).cpu, index)
    assert value is None or 0 <= value < 1 << 64
