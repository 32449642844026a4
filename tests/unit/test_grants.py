"""Grants: what our backends may map, and what the guest sees of it."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmxen.errors import GuestFault, HypercallError
from kvmxen.grants import MAX_FRAMES, RESERVED_XENSTORE, GrantTable
from kvmxen.layout import PAGE_SHIFT, PAGE_SIZE, Layout
from kvmxen.memory import GuestMemory

LAYOUT = Layout.plan(4 << 20, 1)
FRAME = LAYOUT.mfn(7)
ACCESS, READONLY, READING, WRITING = 1, 4, 8, 16


class Guest:
    def __init__(self) -> None:
        self.memory = GuestMemory(LAYOUT.end)
        self.table = GrantTable(self.memory, LAYOUT)
        self.gpa = self.table.grow(1)[0] << PAGE_SHIFT

    def grant(self, reference: int, flags: int, domid: int = 0, mfn: int = FRAME) -> None:
        entry = struct.pack("<HHI", flags, domid, mfn)
        self.memory.write(self.gpa + reference * 8, entry)

    def flags(self, reference: int) -> int:
        return self.memory.read_u32(self.gpa + reference * 8) & 0xFFFF


@pytest.fixture
def guest() -> Guest:
    return Guest()


def test_the_table_grows_and_never_shrinks(guest: Guest) -> None:
    frames = guest.table.grow(MAX_FRAMES)
    assert frames == list(range(LAYOUT.xenheap_mfn + 1, LAYOUT.xenheap_mfn + 1 + MAX_FRAMES))
    assert guest.table.grow(2) == frames[:2]
    assert guest.table.nr_frames == MAX_FRAMES


@pytest.mark.parametrize("frames", [-1, MAX_FRAMES + 1, 1 << 32])
def test_no_table_has_so_many_frames(guest: Guest, frames: int) -> None:
    with pytest.raises(HypercallError) as raised:
        guest.table.grow(frames)
    assert raised.value.errno == errno.EINVAL
    assert guest.table.nr_frames == 1


def test_a_reserved_entry_is_dom0s(guest: Guest) -> None:
    guest.table.seed(RESERVED_XENSTORE, FRAME)
    assert guest.memory.read(guest.gpa + 8, 8) == struct.pack("<HHI", ACCESS, 0, FRAME)
    assert guest.table.map(RESERVED_XENSTORE, write=True) == FRAME << PAGE_SHIFT


@pytest.mark.parametrize(
    ("flags", "write", "seen"),
    [
        (ACCESS, True, ACCESS | READING | WRITING),
        (ACCESS, False, ACCESS | READING),
        (ACCESS | READONLY, False, ACCESS | READONLY | READING),
    ],
)
def test_a_mapping_is_seen_until_it_ends(guest: Guest, flags: int, write: bool, seen: int) -> None:
    guest.grant(9, flags)
    assert guest.table.map(9, write=write) == FRAME << PAGE_SHIFT
    assert guest.flags(9) == seen
    guest.table.unmap(9)
    assert guest.flags(9) == flags


def test_the_last_unmap_counts(guest: Guest) -> None:
    guest.grant(9, ACCESS)
    guest.table.map(9, write=True)
    guest.table.map(9, write=False)
    guest.table.unmap(9)
    assert guest.flags(9) == ACCESS | READING | WRITING
    guest.table.unmap(9)
    assert guest.flags(9) == ACCESS


@pytest.mark.parametrize(
    ("flags", "domid", "mfn", "write"),
    [
        (0, 0, FRAME, False),
        (2, 0, FRAME, False),
        (3, 0, FRAME, False),
        (ACCESS, 1, FRAME, False),
        (ACCESS, 0x7FF0, FRAME, False),
        (ACCESS | READONLY, 0, FRAME, True),
        (ACCESS, 0, 0, False),
        (ACCESS, 0, LAYOUT.xenheap_mfn, False),
        (ACCESS, 0, LAYOUT.m2p_gpa >> PAGE_SHIFT, False),
        (ACCESS, 0, LAYOUT.max_mfn, False),
        (ACCESS, 0, 0xFFFFFFFF, False),
    ],
)
def test_what_was_not_granted_is_not_mapped(
    guest: Guest, flags: int, domid: int, mfn: int, write: bool
) -> None:
    guest.grant(9, flags, domid, mfn)
    with pytest.raises(GuestFault):
        guest.table.map(9, write=write)
    assert guest.flags(9) == flags


@given(st.integers(-(1 << 33), 1 << 33))
def test_references_are_bounded(reference: int) -> None:
    guest = Guest()
    with pytest.raises(GuestFault):
        guest.table.map(reference, write=False)


def test_references_follow_the_tables_size(guest: Guest) -> None:
    beyond = PAGE_SIZE // 8
    guest.grant(beyond, ACCESS)
    with pytest.raises(GuestFault):
        guest.table.map(beyond, write=False)
    guest.table.grow(2)
    assert guest.table.map(beyond, write=False) == FRAME << PAGE_SHIFT
