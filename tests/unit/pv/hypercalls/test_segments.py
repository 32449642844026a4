"""Descriptor tables: which descriptors the CPU may load, and that it loads copies."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmxen.errors import HypercallError
from kvmxen.kvm.layout import PAGE_SIZE
from kvmxen.pv.hypercalls.segments import (
    MAX_GDT_ENTRIES,
    validate,
)
from kvmxen.xen.abi import x86, xen
from kvmxen.xen.abi.xen import DOMID_SELF, Hypercall
from tests.unit.forged import FREE_PFN, SCRATCH, Domain, va

CODE64 = 0x00AF9B000000FFFF
CODE64_USER = 0x00AFFB000000FFFF
DATA = 0x00CF93000000FFFF
DPL3 = 3 << 45
ACCESSED = 1 << 40
SET_BASE, BY_SELECTOR = Hypercall.set_segment_base, xen.SEGBASE_GS_USER_SEL


@pytest.mark.parametrize(
    ("descriptor", "loaded"),
    [
        (0, 0),
        (CODE64, CODE64 | DPL3),
        (CODE64_USER, CODE64_USER),
        (DATA, DATA | DPL3),
        # Not present: it can only fault, gates included.
        (0x0000_0E00_0000_0000, 0x0000_0E00_0000_0000),
        # Type 0, the second half of something.
        (0x0000_8000_1234_5678, 0x0000_8000_1234_5678),
    ],
)
def test_allowed(descriptor: int, loaded: int) -> None:
    assert validate(descriptor) == loaded


@pytest.mark.parametrize("kind", range(1, 16))
@pytest.mark.parametrize("dpl", [0, 3])
def test_no_gate_and_no_system_segment(kind: int, dpl: int) -> None:
    with pytest.raises(HypercallError) as raised:
        validate(1 << 47 | dpl << 45 | kind << 40)
    assert raised.value.errno == errno.EINVAL


@given(st.integers(0, (1 << 64) - 1))
def test_whatever_is_present_is_of_ring_3(descriptor: int) -> None:
    try:
        loaded = validate(descriptor)
    except HypercallError:
        return
    if loaded >> 47 & 1 and loaded >> 40 & 0x1F:
        assert loaded >> 44 & 1
        assert loaded >> 45 & 3 == 3
    assert loaded & ~DPL3 == descriptor & ~DPL3


@pytest.mark.parametrize(
    ("address", "canonical"),
    [
        (0, True),
        ((1 << 47) - 1, True),
        (1 << 47, False),
        (0xFFFF7FFFFFFFFFFF, False),
        (0xFFFF800000000000, True),
        ((1 << 64) - 1, True),
    ],
)
def test_canonical(address: int, canonical: bool) -> None:
    assert x86.is_canonical(address) is canonical


def set_gdt(domain: Domain, entries: int, *pfns: int) -> int | None:
    frames = [domain.layout.mfn(pfn) for pfn in pfns]
    domain.put(struct.pack(f"<{len(frames)}Q", *frames))
    return domain.hypercall(Hypercall.set_gdt, SCRATCH, entries)


def test_the_cpu_gets_a_copy_of_the_gdt(domain: Domain) -> None:
    domain.memory.write_u64(domain.gpa(FREE_PFN) + 8, CODE64)
    assert set_gdt(domain, 512, FREE_PFN) == 0
    copy = domain.cpu.gdt_gpa + 8
    assert domain.memory.read_u64(copy) == CODE64 | DPL3
    # The guest's later changes to its own table do not reach the CPU.
    domain.memory.write_u64(domain.gpa(FREE_PFN) + 8, 1 << 47 | 0xC << 40)
    assert domain.memory.read_u64(copy) == CODE64 | DPL3


def test_the_cpus_copy_of_a_segment_is_accessed(domain: Domain) -> None:
    domain.memory.write_u64(domain.gpa(FREE_PFN), DATA & ~ACCESSED)
    assert set_gdt(domain, 512, FREE_PFN) == 0
    assert domain.memory.read_u64(domain.cpu.gdt_gpa) == DATA | DPL3
    assert domain.memory.read_u64(domain.gpa(FREE_PFN)) == DATA & ~ACCESSED
    where = domain.gpa(FREE_PFN) + 8
    assert domain.hypercall(Hypercall.update_descriptor, where, CODE64 & ~ACCESSED) == 0
    assert domain.memory.read_u64(domain.cpu.gdt_gpa + 8) == CODE64 | DPL3


def test_a_shorter_gdt_leaves_nothing_of_the_longer_one(domain: Domain) -> None:
    domain.memory.write_u64(domain.gpa(FREE_PFN + 1), DATA)
    assert set_gdt(domain, 1024, FREE_PFN, FREE_PFN + 1) == 0
    assert domain.memory.read_u64(domain.cpu.gdt_gpa + PAGE_SIZE)
    assert set_gdt(domain, 512, FREE_PFN) == 0
    assert not domain.memory.read_u64(domain.cpu.gdt_gpa + PAGE_SIZE)


def test_xens_own_descriptors_are_out_of_reach(domain: Domain) -> None:
    before = domain.memory.read(domain.cpu.gdt_gpa + 14 * PAGE_SIZE, 2 * PAGE_SIZE)
    assert set_gdt(domain, MAX_GDT_ENTRIES, *range(FREE_PFN, FREE_PFN + 14)) == 0
    assert set_gdt(domain, MAX_GDT_ENTRIES + 1, *range(FREE_PFN, FREE_PFN + 15)) == -errno.EINVAL
    assert set_gdt(domain, 0x80000000, FREE_PFN) == -errno.EINVAL
    assert domain.memory.read(domain.cpu.gdt_gpa + 14 * PAGE_SIZE, 2 * PAGE_SIZE) == before


@pytest.mark.parametrize("mfn", [0, 1, 1 << 40, (1 << 64) - 1])
def test_a_gdt_in_foreign_frames_is_refused(domain: Domain, mfn: int) -> None:
    domain.put(struct.pack("<Q", mfn))
    assert domain.hypercall(Hypercall.set_gdt, SCRATCH, 1) == -errno.EINVAL


def test_one_bad_descriptor_refuses_the_gdt(domain: Domain) -> None:
    domain.memory.write_u64(domain.gpa(FREE_PFN), DATA)
    assert set_gdt(domain, 512, FREE_PFN) == 0
    domain.memory.write_u64(domain.gpa(FREE_PFN + 1) + 4088, 1 << 47 | 0xE << 40)
    assert set_gdt(domain, 512, FREE_PFN + 1) == -errno.EINVAL
    assert domain.memory.read_u64(domain.cpu.gdt_gpa) == DATA | DPL3


def test_update_descriptor_reaches_the_copies(domain: Domain) -> None:
    assert set_gdt(domain, 512, FREE_PFN) == 0
    address = domain.gpa(FREE_PFN) + 16
    assert domain.hypercall(Hypercall.update_descriptor, address, DATA) == 0
    assert domain.memory.read_u64(address) == DATA | DPL3
    assert domain.memory.read_u64(domain.cpu.gdt_gpa + 16) == DATA | DPL3
    assert not domain.memory.read_u64(domain.cpus[1].gdt_gpa + 16)


@pytest.mark.parametrize(
    ("pfn", "offset", "descriptor"),
    [
        (FREE_PFN, 4, DATA),
        (FREE_PFN, 8, 1 << 47 | 0xC << 40),
        (None, 0, DATA),
        # A page table.
        (0, 0, DATA),
        (2, 0, DATA),
    ],
)
def test_update_descriptor_refuses(
    domain: Domain, pfn: int | None, offset: int, descriptor: int
) -> None:
    address = (domain.gpa(pfn) if pfn is not None else 0x2000) + offset
    before = domain.memory.read(address, 8)
    result = domain.hypercall(Hypercall.update_descriptor, address, descriptor)
    assert result == -errno.EINVAL
    assert domain.memory.read(address, 8) == before


def set_ldt(domain: Domain, address: int, entries: int) -> int | None:
    domain.put(struct.pack("<I4xQQ", xen.MMUEXT_SET_LDT, address, entries), 2048)
    return domain.hypercall(Hypercall.mmuext_op, SCRATCH + 2048, 1, 0, DOMID_SELF)


def test_the_cpu_gets_a_copy_of_the_ldt(domain: Domain) -> None:
    domain.memory.write_u64(domain.gpa(FREE_PFN + 1), DATA)
    assert set_ldt(domain, va(FREE_PFN), 1024) == 0
    assert domain.memory.read_u64(domain.cpu.ldt_gpa + PAGE_SIZE) == DATA | DPL3
    assert domain.cpu.ldt_frames == [domain.layout.mfn(FREE_PFN + i) for i in range(2)]
    ldt = domain.cpu.fd.get_sregs().ldt
    assert (ldt.present, ldt.limit) == (1, 1024 * 8 - 1)
    assert set_ldt(domain, 0, 0) == 0
    assert domain.cpu.fd.get_sregs().ldt.unusable


@pytest.mark.parametrize(
    ("address", "entries", "code"),
    [
        (va(FREE_PFN) + 8, 1, errno.EINVAL),
        (va(FREE_PFN), 8193, errno.EINVAL),
        (0x1000, 1, errno.EFAULT),
        (0xFFFFFFFFFFFFF000, 8192, errno.EFAULT),
    ],
)
def test_set_ldt_refuses(domain: Domain, address: int, entries: int, code: int) -> None:
    assert set_ldt(domain, address, entries) == -code


@pytest.mark.parametrize(
    ("which", "msr"),
    [
        (xen.SEGBASE_FS, x86.MSR_FS_BASE),
        (xen.SEGBASE_GS_USER, x86.MSR_KERNEL_GS_BASE),
        (xen.SEGBASE_GS_KERNEL, x86.MSR_GS_BASE),
    ],
)
def test_segment_bases(domain: Domain, which: int, msr: int) -> None:
    base = 0xFFFF888000001000
    assert domain.hypercall(SET_BASE, which, base) == 0
    assert domain.cpu.fd.get_msr(msr) == base
    assert domain.hypercall(SET_BASE, which, 1 << 47) == -errno.EINVAL
    assert domain.cpu.fd.get_msr(msr) == base


def test_the_users_gs_by_selector(domain: Domain) -> None:
    base = 0x12345678
    descriptor = DATA | (base & 0xFFFFFF) << 16 | (base >> 24) << 56
    domain.memory.write_u64(domain.gpa(FREE_PFN) + 8, descriptor)
    assert set_gdt(domain, 512, FREE_PFN) == 0
    assert domain.hypercall(SET_BASE, BY_SELECTOR, 8 | 3) == 0
    assert domain.cpu.fd.get_msr(x86.MSR_KERNEL_GS_BASE) == base
    assert domain.cpu.fd.get_sregs().gs.selector == 8 | 3
    # A selector without a descriptor is the null selector.
    assert domain.hypercall(SET_BASE, BY_SELECTOR, 0xFFFF) == 0
    assert domain.cpu.fd.get_sregs().gs.selector == 0
    assert domain.cpu.fd.get_msr(x86.MSR_KERNEL_GS_BASE) == 0


def test_an_unknown_base(domain: Domain) -> None:
    assert domain.hypercall(SET_BASE, BY_SELECTOR + 1, 0) == -errno.EINVAL
