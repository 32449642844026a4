"""Page-table hypercalls: foreign frames, cycles, pins, and the user bit."""

from __future__ import annotations

import errno
import itertools
import struct
from threading import Thread

import pytest

from kvmxen.kvm.layout import PAGE_SHIFT
from kvmxen.pv.hypercalls.mmu import MmuExt
from kvmxen.xen.abi import x86, xen
from kvmxen.xen.abi.xen import DOMID_SELF, Hypercall
from tests.unit.forged import (
    BASE,
    FREE_PFN,
    NR_PAGES,
    PRESENT,
    SCRATCH,
    SCRATCH_PFN,
    TABLE,
    USER,
    USER_L4_PFN,
    WRITE,
    Domain,
    va,
)

ACCESSED, DIRTY, LARGE = x86.PTE_ACCESSED, x86.PTE_DIRTY, x86.PTE_LARGE
NORMAL, MACHPHYS = xen.MMU_NORMAL_PT_UPDATE, xen.MMU_MACHPHYS_UPDATE
PRESERVE_AD = xen.MMU_PT_UPDATE_PRESERVE_AD
DONE = 2048


def update(domain: Domain, *updates: tuple[int, int], domid: int = DOMID_SELF) -> int | None:
    domain.put(b"".join(struct.pack("<QQ", *one) for one in updates))
    return domain.hypercall(Hypercall.mmu_update, SCRATCH, len(updates), SCRATCH + DONE, domid)


def mmuext(domain: Domain, command: int, arg1: int = 0, arg2: int = 0) -> int | None:
    domain.put(struct.pack("<I4xQQ", command, arg1, arg2))
    return domain.hypercall(Hypercall.mmuext_op, SCRATCH, 1, SCRATCH + DONE, DOMID_SELF)


def done(domain: Domain) -> int:
    return int.from_bytes(domain.get(4, DONE), "little")


def leaf(domain: Domain, pfn: int = FREE_PFN) -> int:
    """The gpa of the L1 entry that maps frame `pfn` of the guest."""
    return domain.entry(1, va(pfn))


def test_an_entry_gets_the_user_bit(domain: Domain) -> None:
    entry = domain.gpa(FREE_PFN + 1) | PRESENT | WRITE
    assert update(domain, (leaf(domain), entry)) == 0
    assert domain.memory.read_u64(leaf(domain)) == entry | USER
    assert done(domain) == 1


def test_an_entry_that_is_not_present_is_stored_as_it_is(domain: Domain) -> None:
    assert update(domain, (leaf(domain), 0xDEADBEEF000 | 0x400)) == 0
    assert domain.memory.read_u64(leaf(domain)) == 0xDEADBEEF000 | 0x400


def test_accessed_and_dirty_are_kept_where_asked(domain: Domain) -> None:
    where, frame = leaf(domain), domain.gpa(FREE_PFN)
    domain.memory.write_u64(where, frame | TABLE | ACCESSED | DIRTY)
    assert update(domain, (where | PRESERVE_AD, frame | PRESENT)) == 0
    assert domain.memory.read_u64(where) == frame | PRESENT | USER | ACCESSED | DIRTY
    assert update(domain, (where | NORMAL, frame | PRESENT)) == 0
    assert domain.memory.read_u64(where) == frame | PRESENT | USER


def test_shared_info_may_be_mapped(domain: Domain) -> None:
    entry = domain.layout.shared_info_mfn << PAGE_SHIFT | TABLE
    assert update(domain, (leaf(domain), entry)) == 0


# AMD's FCH_PM_S5_RESET_STATUS, which Linux reads; the LAPIC; both ends of the device range.
@pytest.mark.parametrize("gpa", [0xFED80000, 0xFEE00000, 0xC0000000, 0xFFFFF000])
def test_memory_of_devices_reads_as_ones(domain: Domain, gpa: int) -> None:
    assert update(domain, (leaf(domain), gpa | TABLE)) == 0
    entry = domain.memory.read_u64(leaf(domain))
    assert entry & ~0xFFF == domain.layout.absent_mfn << PAGE_SHIFT
    assert entry & 2 == 0
    assert domain.tables.read(domain.cr3, va(FREE_PFN), 4096) == b"\xff" * 4096
    # It is not a table.
    assert update(domain, (domain.entry(2, BASE), gpa | TABLE)) == -errno.EINVAL


FOREIGN = [0, 0x1000, 0x20000, 1 << 40, 0x000FFFFFFFFFF000]


@pytest.mark.parametrize("gpa", FOREIGN)
def test_no_foreign_frame_is_mapped(domain: Domain, gpa: int) -> None:
    before = domain.memory.read_u64(leaf(domain))
    assert update(domain, (leaf(domain), gpa | TABLE)) == -errno.EINVAL
    assert domain.memory.read_u64(leaf(domain)) == before
    assert domain.hypercall(Hypercall.update_va_mapping, va(FREE_PFN), gpa | TABLE, 0) == (
        -errno.EINVAL
    )
    assert domain.memory.read_u64(leaf(domain)) == before


def test_the_m2p_table_is_not_mapped_through_the_guests_own_entries(domain: Domain) -> None:
    assert update(domain, (leaf(domain), domain.layout.m2p_gpa | TABLE)) == -errno.EINVAL


def test_no_large_page(domain: Domain) -> None:
    where = domain.entry(2, BASE)
    assert update(domain, (where, domain.gpa(0) | TABLE | LARGE)) == -errno.EINVAL


@pytest.mark.parametrize("gpa", FOREIGN)
def test_no_foreign_entry_is_written(domain: Domain, gpa: int) -> None:
    assert update(domain, (gpa, 0)) == -errno.EINVAL


@pytest.mark.parametrize("slot", [256, 257, 258, 259, 271])
def test_xens_slots_of_an_l4_are_xens(domain: Domain, slot: int) -> None:
    before = domain.memory.read_u64(domain.cr3 + slot * 8)
    assert update(domain, (domain.cr3 + slot * 8, 0)) == -errno.EINVAL
    assert domain.memory.read_u64(domain.cr3 + slot * 8) == before
    assert update(domain, (domain.cr3 + 272 * 8, 0)) == 0


def test_what_is_done_before_a_failure_is_told(domain: Domain) -> None:
    good = (leaf(domain), domain.gpa(FREE_PFN) | TABLE)
    assert update(domain, good, good, (0, 0), good) == -errno.EINVAL
    assert done(domain) == 2


def test_only_the_domain_itself(domain: Domain) -> None:
    assert update(domain, (leaf(domain), 0), domid=0) == -errno.EPERM
    assert update(domain, (leaf(domain), 0), domid=DOMID_SELF | 1 << 16) == -errno.EPERM


def test_batches_are_bounded(domain: Domain) -> None:
    for count in (1 << 17, 1 << 31, 0xFFFFFFFF):
        assert domain.hypercall(Hypercall.mmu_update, SCRATCH, count, 0, DOMID_SELF) == (
            -errno.EINVAL
        )
        assert domain.hypercall(Hypercall.mmuext_op, SCRATCH, count, 0, DOMID_SELF) == (
            -errno.EINVAL
        )


def test_a_list_that_is_not_there(domain: Domain) -> None:
    assert domain.hypercall(Hypercall.mmu_update, 0x1000, 1, 0, DOMID_SELF) == -errno.EFAULT


def test_machine_to_physical(domain: Domain) -> None:
    mfn = domain.layout.mfn(FREE_PFN)
    assert update(domain, (mfn << PAGE_SHIFT | MACHPHYS, 0x1234)) == 0
    assert domain.memory.read_u64(domain.layout.m2p_gpa + mfn * 8) == 0x1234
    for foreign in (0, domain.layout.xenheap_mfn, domain.layout.max_mfn):
        assert update(domain, (foreign << PAGE_SHIFT | MACHPHYS, 1)) == -errno.EINVAL
        assert not domain.memory.read_u64(domain.layout.m2p_gpa + foreign * 8)


def test_update_va_mapping_and_its_flushes(domain: Domain) -> None:
    entry = domain.gpa(FREE_PFN + 1) | TABLE
    mask = domain.put(b"\x02", DONE)
    for flags in (0, 1, 2, 1 | 1 << 2, 2 | 1 << 2, mask | 1, mask | 2):
        assert domain.hypercall(Hypercall.update_va_mapping, va(FREE_PFN), entry, flags) == 0
        assert domain.memory.read_u64(leaf(domain)) == entry
    assert domain.hypercall(Hypercall.update_va_mapping, va(FREE_PFN), entry, 0x1001) == (
        -errno.EFAULT
    )
    assert domain.hypercall(Hypercall.update_va_mapping, 0x1000, entry, 0) == -errno.EINVAL


@pytest.mark.parametrize("address", [0, 1 << 47, 0xFFFF808000000000, 0xFFFF810000000000])
def test_update_va_mapping_only_reaches_the_guests_own_entries(
    domain: Domain, address: int
) -> None:
    assert domain.hypercall(Hypercall.update_va_mapping, address, 0, 0) == -errno.EINVAL


def tables(domain: Domain, first: int = FREE_PFN) -> list[int]:
    """The gpas of a new L4, L3, L2 and L1, each in the first slot of the one before."""
    gpas = [domain.gpa(first + i) for i in range(4)]
    for upper, lower in itertools.pairwise(gpas):
        domain.memory.write_u64(upper, lower | PRESENT | WRITE)
    domain.memory.write_u64(gpas[3], domain.gpa(first + 4) | PRESENT)
    return gpas


def test_a_pin_completes_the_tree(domain: Domain) -> None:
    gpas = tables(domain)
    assert mmuext(domain, MmuExt.PIN_L4_TABLE, gpas[0] >> PAGE_SHIFT) == 0
    for gpa in gpas:
        assert domain.memory.read_u64(gpa) & USER
    # Xen's own entries are there.
    assert domain.memory.read(gpas[0] + 256 * 8, 128) == domain.memory.read(
        domain.cr3 + 256 * 8, 128
    )
    assert mmuext(domain, MmuExt.UNPIN_TABLE, gpas[0] >> PAGE_SHIFT) == 0
    assert mmuext(domain, MmuExt.UNPIN_TABLE, gpas[0] >> PAGE_SHIFT) == -errno.EINVAL


@pytest.mark.parametrize("level", [1, 2, 3, 4])
@pytest.mark.parametrize("gpa", [0, 1 << 40])
def test_a_pin_refuses_foreign_frames_at_every_level(domain: Domain, level: int, gpa: int) -> None:
    gpas = tables(domain)
    domain.memory.write_u64(gpas[4 - level] + 8, gpa | PRESENT)
    assert mmuext(domain, MmuExt.PIN_L4_TABLE, gpas[0] >> PAGE_SHIFT) == -errno.EINVAL
    assert domain.tables.level(gpas[0] >> PAGE_SHIFT) == 0


def test_a_pin_refuses_the_xenheap_as_a_table(domain: Domain) -> None:
    gpas = tables(domain)
    domain.memory.write_u64(gpas[0], domain.layout.xenheap_gpa | PRESENT)
    assert mmuext(domain, MmuExt.PIN_L4_TABLE, gpas[0] >> PAGE_SHIFT) == -errno.EINVAL


@pytest.mark.parametrize("mfn", [0, 1 << 40, (1 << 64) - 1])
def test_only_own_frames_are_tables(domain: Domain, mfn: int) -> None:
    for command in (0, 1, 2, 3, MmuExt.NEW_BASEPTR, MmuExt.CLEAR_PAGE, MmuExt.COPY_PAGE):
        assert mmuext(domain, command, mfn, mfn) == -errno.EINVAL
    if mfn:
        assert mmuext(domain, MmuExt.NEW_USER_BASEPTR, mfn) == -errno.EINVAL


def test_cyclic_tables_are_walked_once(domain: Domain) -> None:
    # Every slot of every table leads to every table: a full walk would take 512 ** 4 paths.
    frames = range(FREE_PFN, FREE_PFN + 64)
    for pfn in frames:
        for slot in range(512):
            target = domain.gpa(frames[slot % len(frames)]) | TABLE
            domain.memory.write_u64(domain.gpa(pfn) + slot * 8, target)
    mfn = domain.layout.mfn(FREE_PFN)
    assert mmuext(domain, MmuExt.PIN_L4_TABLE, mfn) == 0
    assert not domain.tables.is_table(domain.layout.mfn(NR_PAGES - 1))
    assert domain.tables.is_table(domain.layout.mfn(FREE_PFN + 63))


def test_what_leads_to_a_table_is_counted(domain: Domain) -> None:
    gpas = tables(domain)
    mfns = [gpa >> PAGE_SHIFT for gpa in gpas]

    def found() -> list[bool]:
        return [domain.tables.is_table(mfn) for mfn in mfns]

    assert found() == [False] * 4
    assert mmuext(domain, MmuExt.PIN_L4_TABLE, mfns[0]) == 0
    assert found() == [True] * 4
    # The tables below disappear with their only entry, and return with it.
    assert update(domain, (gpas[1], 0)) == 0
    assert found() == [True, True, False, False]
    assert update(domain, (gpas[1], gpas[2] | TABLE), (gpas[1] + 8, gpas[2] | TABLE)) == 0
    assert update(domain, (gpas[1], 0)) == 0
    assert found() == [True] * 4
    # A pin, or a base pointer, keeps it.
    assert mmuext(domain, MmuExt.PIN_L4_TABLE - 1, mfns[1]) == 0
    assert mmuext(domain, MmuExt.UNPIN_TABLE, mfns[0]) == 0
    assert found() == [False, True, True, True]
    assert mmuext(domain, MmuExt.NEW_USER_BASEPTR, mfns[0]) == 0
    assert mmuext(domain, MmuExt.UNPIN_TABLE, mfns[1]) == 0
    assert found() == [True] * 4
    assert mmuext(domain, MmuExt.NEW_USER_BASEPTR, 0) == 0
    assert found() == [False] * 4


def test_a_pin_at_another_level_takes_the_first_ones_place(domain: Domain) -> None:
    gpas = tables(domain)
    mfns = [gpa >> PAGE_SHIFT for gpa in gpas]
    assert mmuext(domain, MmuExt.PIN_L4_TABLE - 1, mfns[1]) == 0
    assert mmuext(domain, MmuExt.PIN_L4_TABLE - 2, mfns[1]) == 0
    # As an L2 it leads to an L1, whose entries lead to data.
    assert [domain.tables.is_table(mfn) for mfn in mfns] == [False, True, True, False]
    assert domain.tables.level(mfns[1]) == 2


def test_a_pin_that_is_refused_leaves_no_count(domain: Domain) -> None:
    gpas = tables(domain)
    domain.memory.write_u64(gpas[1] + 511 * 8, 1 << 40 | PRESENT)
    assert mmuext(domain, MmuExt.PIN_L4_TABLE, gpas[0] >> PAGE_SHIFT) == -errno.EINVAL
    assert not any(domain.tables.is_table(gpa >> PAGE_SHIFT) for gpa in gpas)
    assert update(domain, (domain.cr3 + 511 * 8 - 8, gpas[1] | TABLE)) == -errno.EINVAL
    assert not any(domain.tables.is_table(gpa >> PAGE_SHIFT) for gpa in gpas)


def test_a_table_that_has_too_many_links_stays_one(domain: Domain) -> None:
    l2, l1 = domain.gpa(FREE_PFN), domain.gpa(FREE_PFN + 1)
    where = domain.layout.types_gpa + (l1 >> PAGE_SHIFT) * 8
    assert mmuext(domain, MmuExt.PIN_L1_TABLE + 1, l2 >> PAGE_SHIFT) == 0
    domain.memory.write_u64(where, 0xFFFE)
    assert update(domain, (l2, l1 | TABLE), (l2 + 8, l1 | TABLE)) == 0
    assert update(domain, (l2, 0), (l2 + 8, 0)) == 0
    assert domain.memory.read_u64(where) == 0xFFFF


def test_a_shared_frame_is_no_table(domain: Domain) -> None:
    gpas = tables(domain)
    shared = domain.layout.xenheap_gpa | TABLE
    assert mmuext(domain, MmuExt.PIN_L4_TABLE, gpas[0] >> PAGE_SHIFT) == 0
    for gpa in gpas[:3]:
        assert update(domain, (gpa + 8, shared)) == -errno.EINVAL
    assert update(domain, (gpas[3] + 8, shared)) == 0


def test_what_takes_long_is_without_the_gil_and_ends_with_the_vcpu(domain: Domain) -> None:
    # Each of these tables leads to all of them, and is linked and unlinked as an L3.
    frames = range(FREE_PFN, FREE_PFN + 480)
    entries = [domain.gpa(pfn) | TABLE for pfn in frames]
    for pfn in frames:
        domain.memory.write(domain.gpa(pfn), struct.pack("<480Q", *entries))
    l4 = domain.gpa(FREE_PFN + 481)
    assert mmuext(domain, MmuExt.PIN_L4_TABLE, l4 >> PAGE_SHIFT) == 0
    # 2 MiB of addresses show the same page of requests.
    domain.put(b"".join(struct.pack("<4Q", l4, entries[0], l4, 0) for _ in range(128)))
    last = va(NR_PAGES - 512)
    domain.memory.fill_u64(domain.entry(1, last), 512, domain.gpa(SCRATCH_PFN) | TABLE, 0)
    vcpu = domain.cpu.vcpu
    results = []
    thread = Thread(target=lambda: results.append(domain.tables.update_many(vcpu, last, 1 << 16)))
    thread.start()
    # A thread that waited for the GIL until the end would not see this.
    while not domain.tables.is_table(domain.layout.mfn(FREE_PFN)) and thread.is_alive():
        pass
    vcpu.ending = True
    thread.join()
    [(done, error)] = results
    assert done < 1 << 16
    assert error == errno.ECANCELED


def test_base_pointers(domain: Domain) -> None:
    gpas = tables(domain)
    assert mmuext(domain, MmuExt.NEW_BASEPTR, gpas[0] >> PAGE_SHIFT) == 0
    assert domain.cpu.vcpu.kernel_cr3 == gpas[0]
    # The new address space has no such page: the list is not read, and nothing is written.
    assert domain.hypercall(Hypercall.mmuext_op, SCRATCH, 1, 0, DOMID_SELF) == -errno.EFAULT


def test_user_mode_does_not_see_the_m2p_table(domain: Domain) -> None:
    user = domain.gpa(USER_L4_PFN)
    assert mmuext(domain, MmuExt.NEW_USER_BASEPTR, user >> PAGE_SHIFT) == 0
    assert domain.cpu.vcpu.user_cr3 == user
    assert domain.memory.read_u64(user + 257 * 8) == 0
    assert domain.memory.read_u64(user + 258 * 8) == domain.memory.read_u64(domain.cr3 + 258 * 8)
    assert mmuext(domain, MmuExt.NEW_USER_BASEPTR, 0) == 0
    assert domain.cpu.vcpu.user_cr3 == 0


def test_pages_are_cleared_and_copied_but_tables_are_not(domain: Domain) -> None:
    one, two = domain.gpa(FREE_PFN), domain.gpa(FREE_PFN + 1)
    domain.memory.write(one, b"\xff" * 4096)
    assert mmuext(domain, MmuExt.COPY_PAGE, two >> PAGE_SHIFT, one >> PAGE_SHIFT) == 0
    assert domain.memory.read(two, 4096) == b"\xff" * 4096
    assert mmuext(domain, MmuExt.CLEAR_PAGE, one >> PAGE_SHIFT) == 0
    assert domain.memory.read(one, 4096) == bytes(4096)
    for table in (domain.cr3, *(domain.entry(level, BASE) & -4096 for level in (1, 2, 3))):
        assert mmuext(domain, MmuExt.CLEAR_PAGE, table >> PAGE_SHIFT) == -errno.EINVAL


@pytest.mark.parametrize(
    ("command", "result"),
    [
        (MmuExt.TLB_FLUSH_LOCAL, 0),
        (MmuExt.INVLPG_LOCAL, 0),
        (MmuExt.TLB_FLUSH_ALL, 0),
        (MmuExt.INVLPG_ALL, 0),
        (MmuExt.TLB_FLUSH_MULTI, -errno.EFAULT),
        (MmuExt.INVLPG_MULTI, -errno.EFAULT),
        (MmuExt.FLUSH_CACHE, -errno.EACCES),
        (MmuExt.FLUSH_CACHE_GLOBAL, -errno.EACCES),
        (14, -errno.ENOSYS),
        (19, -errno.ENOSYS),
        (0xFFFFFFFF, -errno.ENOSYS),
    ],
)
def test_other_operations(domain: Domain, command: int, result: int) -> None:
    assert mmuext(domain, command) == result
    assert done(domain) == (result == 0)


def test_a_flush_reaches_the_vcpus_of_the_mask_that_are_up(domain: Domain) -> None:
    other = domain.cpus[1]
    domain.put(b"\x02", 1024)
    assert mmuext(domain, MmuExt.TLB_FLUSH_MULTI, 0, SCRATCH + 1024) == 0
    assert not other.vcpu.flush_pending
    other.up = True
    assert mmuext(domain, MmuExt.TLB_FLUSH_MULTI, 0, SCRATCH + 1024) == 0
    assert other.vcpu.flush_pending


def test_a_stopping_machine_ends_a_long_list(domain: Domain) -> None:
    domain.machine.stopping = True
    assert mmuext(domain, MmuExt.TLB_FLUSH_LOCAL) == 0
    assert done(domain) == 0
