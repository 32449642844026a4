"""The balloon: extents that go back and forth, and Xen's answers for those that cannot."""

from __future__ import annotations

import errno
import os
import struct

import pytest

from kvmxen.xen.abi import xen
from kvmxen.xen.abi.xen import DOMID_SELF, Hypercall
from tests.unit.forged import FREE_PFN, MEMORY, NR_PAGES, SCRATCH, Domain

INCREASE, DECREASE = xen.XENMEM_increase_reservation, xen.XENMEM_decrease_reservation
POPULATE = xen.XENMEM_populate_physmap
EXTENTS = 1024
MASK64 = (1 << 64) - 1


def extents(domain: Domain, *values: int) -> None:
    domain.put(struct.pack(f"<{len(values)}Q", *values), EXTENTS)


def reservation(
    domain: Domain, command: int, count: int, order: int = 0, domid: int = DOMID_SELF
) -> int | None:
    domain.put(struct.pack("<QQIIH6x", SCRATCH + EXTENTS, count, order, 0, domid))
    return domain.hypercall(Hypercall.memory_op, command, SCRATCH)


def current(domain: Domain) -> int | None:
    domain.put(struct.pack("<H", DOMID_SELF))
    return domain.hypercall(Hypercall.memory_op, xen.XENMEM_current_reservation, SCRATCH)


def mfn(domain: Domain, pfn: int) -> int:
    return domain.layout.mfn(pfn)


def test_a_frame_goes_and_comes_back_empty(domain: Domain) -> None:
    frame = mfn(domain, FREE_PFN)
    domain.memory.write(frame << 12, b"secret")
    extents(domain, frame)
    assert reservation(domain, DECREASE, 1) == 1
    assert current(domain) == NR_PAGES - 1
    # It cannot be given back twice.
    assert reservation(domain, DECREASE, 1) == 0
    extents(domain, 0x555)
    assert reservation(domain, POPULATE, 1) == 1
    assert domain.get(8, EXTENTS) == struct.pack("<Q", frame)
    assert domain.memory.read_u64(domain.layout.m2p_gpa + frame * 8) == 0x555
    assert domain.memory.read(frame << 12, 6) == bytes(6)
    assert current(domain) == NR_PAGES


def test_what_lies_together_comes_back_together(domain: Domain) -> None:
    extents(domain, mfn(domain, FREE_PFN))
    assert reservation(domain, DECREASE, 1, order=2) == 1
    assert current(domain) == NR_PAGES - 4
    extents(domain, MASK64)
    assert reservation(domain, POPULATE, 1, order=2) == 1
    frame = mfn(domain, FREE_PFN)
    assert domain.get(8, EXTENTS) == struct.pack("<Q", frame)
    # A pfn that wraps is the guest's own nonsense.
    assert domain.memory.read_u64(domain.layout.m2p_gpa + (frame + 1) * 8) == 0


@pytest.mark.parametrize("step", [1, -1, 2])
def test_what_is_given_back_is_the_hosts_again(domain: Domain, step: int) -> None:
    pfns = [FREE_PFN + 64 + step * i for i in range(20)]
    for pfn in pfns:
        domain.memory.write(domain.gpa(pfn), b"\xff" * 4096)
    neighbour = domain.gpa(max(pfns) + 1)
    domain.memory.write(neighbour, b"kept")
    extents(domain, *(mfn(domain, pfn) for pfn in pfns))
    before = os.fstat(domain.memory.fd).st_blocks
    assert reservation(domain, DECREASE, 20) == 20
    assert before - os.fstat(domain.memory.fd).st_blocks == 20 * 4096 // 512
    assert domain.memory.read(neighbour, 4) == b"kept"


def test_all_of_memory_goes_and_comes(domain: Domain) -> None:
    """Everything but tables and arguments, in extents of 512 frames, then one by one."""
    extents(domain, *(mfn(domain, pfn) for pfn in range(512, NR_PAGES, 512)))
    count = NR_PAGES // 512 - 1
    assert reservation(domain, DECREASE, count, order=9) == count
    assert current(domain) == 512
    frames: list[int] = []
    while reservation(domain, INCREASE, 128) == 128:
        frames += struct.unpack("<128Q", domain.get(1024, EXTENTS))
    assert sorted(frames) == [mfn(domain, pfn) for pfn in range(512, NR_PAGES)]
    assert current(domain) == NR_PAGES


def test_extents_are_found_among_single_frames(domain: Domain) -> None:
    singles = [mfn(domain, FREE_PFN + 2 * i) for i in range(100)]
    extents(domain, *singles)
    assert reservation(domain, DECREASE, 100) == 100
    assert reservation(domain, INCREASE, 1, order=1) == 0
    extents(domain, mfn(domain, FREE_PFN + 301))
    assert reservation(domain, DECREASE, 1, order=1) == 1
    assert reservation(domain, INCREASE, 1, order=1) == 1
    assert domain.get(8, EXTENTS) == struct.pack("<Q", mfn(domain, FREE_PFN + 301))


def test_a_frame_that_the_list_cannot_tell_stays(domain: Domain) -> None:
    extents(domain, mfn(domain, FREE_PFN))
    assert reservation(domain, DECREASE, 1) == 1
    domain.put(struct.pack("<QQIIH6x", 0x1000, 1, 0, 0, DOMID_SELF))
    assert domain.hypercall(Hypercall.memory_op, INCREASE, SCRATCH) == 0
    assert current(domain) == NR_PAGES - 1


def test_a_balloon_ends_with_the_vcpu(domain: Domain) -> None:
    extents(domain, mfn(domain, FREE_PFN))
    domain.cpu.vcpu.ending = True
    assert reservation(domain, DECREASE, 1) == 0


def test_there_is_no_more_than_there_was(domain: Domain) -> None:
    extents(domain, 1, 2)
    assert reservation(domain, POPULATE, 2) == 0
    assert reservation(domain, INCREASE, 2) == 0
    assert current(domain) == NR_PAGES


@pytest.mark.parametrize("foreign", [0, 1, 1 << 40, MASK64])
def test_what_was_done_before_a_foreign_frame_is_told(domain: Domain, foreign: int) -> None:
    extents(domain, mfn(domain, FREE_PFN), mfn(domain, FREE_PFN + 1), foreign)
    assert reservation(domain, DECREASE, 3) == 2
    assert current(domain) == NR_PAGES - 2


@pytest.mark.parametrize("pfn", range(6))
def test_page_tables_are_not_given_away(domain: Domain, pfn: int) -> None:
    extents(domain, mfn(domain, pfn))
    assert reservation(domain, DECREASE, 1) == 0
    assert reservation(domain, DECREASE, 1, order=9) == 0


@pytest.mark.parametrize(
    ("count", "order", "domid"),
    [(1, 0, 0), (1, 10, DOMID_SELF), (1 << 21, 0, DOMID_SELF), (MASK64, 0, DOMID_SELF)],
)
def test_nonsense_does_nothing(domain: Domain, count: int, order: int, domid: int) -> None:
    extents(domain, mfn(domain, FREE_PFN))
    assert reservation(domain, DECREASE, count, order, domid) == 0
    assert current(domain) == NR_PAGES


def test_extents_that_are_not_there(domain: Domain) -> None:
    domain.put(struct.pack("<QQIIH6x", 0x1000, 1, 0, 0, DOMID_SELF))
    for command in (INCREASE, DECREASE, POPULATE):
        assert domain.hypercall(Hypercall.memory_op, command, SCRATCH) == 0
        assert domain.hypercall(Hypercall.memory_op, command, 0x1000) == 0


def test_sizes(domain: Domain) -> None:
    domain.put(struct.pack("<H", DOMID_SELF))
    call = Hypercall.memory_op
    assert domain.hypercall(call, xen.XENMEM_maximum_reservation, SCRATCH) == NR_PAGES
    assert domain.hypercall(call, xen.XENMEM_maximum_ram_page) == domain.layout.max_mfn - 1


def test_the_memory_map(domain: Domain) -> None:
    domain.put(struct.pack("<I4xQ", 8, SCRATCH + 64))
    assert domain.hypercall(Hypercall.memory_op, xen.XENMEM_memory_map, SCRATCH) == 0
    assert domain.get(4) == struct.pack("<I", 1)
    assert domain.get(20, 64) == struct.pack("<QQI", 0, MEMORY, 1)


def test_where_the_m2p_table_is(domain: Domain) -> None:
    assert domain.hypercall(Hypercall.memory_op, xen.XENMEM_machphys_mapping, SCRATCH) == 0
    start, end, last = struct.unpack("<QQQ", domain.get(24))
    assert start == domain.machine.m2p_va
    assert end - start == domain.layout.m2p_bytes
    assert last == domain.layout.max_mfn - 1
    domain.put(struct.pack("<I4xQI", 1, SCRATCH + 64, 99))
    assert domain.hypercall(Hypercall.memory_op, xen.XENMEM_machphys_mfn_list, SCRATCH) == 0
    assert domain.get(8, 64) == struct.pack("<Q", domain.layout.m2p_gpa >> 12)
    assert domain.get(8, 72) == bytes(8)
    assert domain.get(4, 16) == struct.pack("<I", 1)


def exchange(
    domain: Domain, count: int, order: int, out_count: int, out_order: int, done: int = 0
) -> int | None:
    given = struct.pack("<QQIIH6x", SCRATCH + EXTENTS, count, order, 0, DOMID_SELF)
    wanted = struct.pack("<QQIIH6x", SCRATCH + 2048, out_count, out_order, 0, DOMID_SELF)
    domain.put(given + wanted + struct.pack("<Q", done))
    return domain.hypercall(Hypercall.memory_op, xen.XENMEM_exchange, SCRATCH)


def test_frames_that_lie_together_are_exchanged_for_one_extent(domain: Domain) -> None:
    frames = [mfn(domain, FREE_PFN + i) for i in range(4)]
    domain.memory.write(frames[2] << 12, b"old")
    extents(domain, *frames)
    domain.put(struct.pack("<Q", 0x700), 2048)
    assert exchange(domain, 4, 0, 1, 2) == 0
    assert domain.get(8, 2048) == struct.pack("<Q", frames[0])
    assert domain.get(8, 64) == struct.pack("<Q", 4)
    assert domain.memory.read(frames[2] << 12, 3) == bytes(3)
    assert domain.memory.read_u64(domain.layout.m2p_gpa + frames[3] * 8) == 0x703


@pytest.mark.parametrize(
    ("pfns", "shape", "code"),
    [
        ([FREE_PFN, FREE_PFN + 2], (2, 0, 1, 1), errno.ENOMEM),
        ([FREE_PFN, FREE_PFN], (2, 0, 1, 1), errno.EINVAL),
        ([0], (1, 0, 1, 0), errno.EINVAL),
        ([FREE_PFN], (1, 0, 2, 0), errno.EINVAL),
        ([FREE_PFN], (1, 10, 1, 10), errno.EINVAL),
        ([FREE_PFN], (1024, 0, 1024, 0), errno.EINVAL),
        ([FREE_PFN], (MASK64, 0, MASK64, 0), errno.EINVAL),
    ],
)
def test_exchanges_that_are_refused(
    domain: Domain, pfns: list[int], shape: tuple[int, int, int, int], code: int
) -> None:
    extents(domain, *(mfn(domain, pfn) for pfn in pfns))
    before = domain.memory.read(domain.gpa(pfns[0]), 4096)
    assert exchange(domain, *shape) == -code
    assert domain.memory.read(domain.gpa(pfns[0]), 4096) == before


def test_an_exchange_is_not_resumed(domain: Domain) -> None:
    extents(domain, mfn(domain, FREE_PFN))
    assert exchange(domain, 1, 0, 1, 0, done=1) == -errno.EINVAL
