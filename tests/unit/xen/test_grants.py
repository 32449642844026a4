"""Grants: the access of our backends, the guest's view of it, and what the guest cannot change."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmxen.errors import HypercallError
from kvmxen.kvm.layout import PAGE_SHIFT, PAGE_SIZE
from kvmxen.kvm.memory import GuestMemory
from kvmxen.pv.shim.plan import plan
from kvmxen.xen.abi.grant_table import (
    ACCEPT_TRANSFER,
    PERMIT_ACCESS,
    READING,
    READONLY,
    RESERVED_XENSTORE,
    SUB_PAGE,
    TRANSITIVE,
    WRITING,
    GrantEntryV1,
    GrantEntryV2,
    GrantStatus,
)
from kvmxen.xen.grants import MAX_FRAMES, GrantError, GrantTable
from tests.unit.mutator import mutating

ENTRY_V1 = GrantEntryV1.bits64.construct
ENTRY_V2 = GrantEntryV2.bits64.construct
LAYOUT = plan(4 << 20, 1)
FRAME = LAYOUT.mfn(7)
BAD_FRAMES = [0, LAYOUT.xenheap_mfn, LAYOUT.m2p_gpa >> PAGE_SHIFT, LAYOUT.max_mfn, 0xFFFFFFFF]


class Guest:
    def __init__(self, version: int = 1) -> None:
        self.memory = GuestMemory(LAYOUT.end)
        self.table = GrantTable(self.memory, LAYOUT)
        self.table.set_version(version)
        self.gpa = self.table.grow(1)[0] << PAGE_SHIFT

    def grant(
        self, ref: int, flags: int, domid: int = 0, mfn: int = FRAME, part: tuple[int, int] = (0, 0)
    ) -> None:
        fields = {"flags": flags, "domid": domid, "frame": mfn}
        if self.table.version == 1:
            self.memory.write(self.gpa + ref * 8, ENTRY_V1.build(fields))
        else:
            fields |= {"page_off": part[0], "length": part[1]}
            self.memory.write(self.gpa + ref * 16, ENTRY_V2.build(fields))

    def set_flags(self, ref: int, flags: int) -> None:
        size = 8 if self.table.version == 1 else 16
        self.memory.write(self.gpa + ref * size, flags.to_bytes(2, "little"))

    def flags(self, ref: int) -> int:
        """The flags of an entry, with those of its status word."""
        if self.table.version == 1:
            return self.memory.read_u32(self.gpa + ref * 8) & 0xFFFF
        status = self.table.status_frames(1)[0] << PAGE_SHIFT
        word = int.from_bytes(self.memory.read(status + ref * 2, 2), "little")
        return self.memory.read_u32(self.gpa + ref * 16) & 0xFFFF | word


@pytest.fixture(params=[1, 2])
def guest(request: pytest.FixtureRequest) -> Guest:
    return Guest(request.param)


def status_of(guest: Guest, ref: int, write: bool) -> GrantStatus:
    with pytest.raises(GrantError) as raised:
        guest.table.map_frame(ref, write)
    return raised.value.status


def test_the_table_grows_and_never_shrinks(guest: Guest) -> None:
    frames = guest.table.grow(MAX_FRAMES)
    assert frames == list(range(LAYOUT.xenheap_mfn + 1, LAYOUT.xenheap_mfn + 1 + MAX_FRAMES))
    assert guest.table.grow(2) == frames[:2]
    assert guest.table.nr_frames == MAX_FRAMES


@pytest.mark.parametrize("frames", [-1, MAX_FRAMES + 1, 1 << 32])
def test_no_table_has_so_many_frames(guest: Guest, frames: int) -> None:
    for ask in (guest.table.grow, guest.table.status_frames):
        with pytest.raises(HypercallError) as raised:
            ask(frames)
        assert raised.value.errno == errno.EINVAL
    assert guest.table.nr_frames == 1


def test_status_words_are_version_2s() -> None:
    guest = Guest()
    assert guest.table.nr_status_frames == 0
    guest.table.set_version(2)
    assert guest.table.nr_status_frames == 1
    table = guest.table.grow(MAX_FRAMES)
    frames = guest.table.status_frames(guest.table.nr_status_frames)
    assert len(frames) == 8
    assert not set(frames) & set(table)


def test_a_reserved_entry_is_dom0s_in_either_version() -> None:
    guest = Guest()
    guest.table.seed(RESERVED_XENSTORE, FRAME)
    assert guest.table.map_frame(RESERVED_XENSTORE, True) == FRAME << PAGE_SHIFT
    for version in (2, 1):
        guest.table.set_version(version)
        assert guest.flags(RESERVED_XENSTORE) == PERMIT_ACCESS | READING | WRITING
        assert guest.table.pinned() == {RESERVED_XENSTORE: (0, 1)}
    guest.table.unmap_frame(RESERVED_XENSTORE, True)
    assert guest.memory.read(guest.gpa + 8, 8) == ENTRY_V1.build(
        {"flags": PERMIT_ACCESS, "domid": 0, "frame": FRAME}
    )


@pytest.mark.parametrize(
    ("flags", "write", "seen"),
    [
        (PERMIT_ACCESS, True, READING | WRITING),
        (PERMIT_ACCESS, False, READING),
        (PERMIT_ACCESS | READONLY, False, READING),
    ],
)
def test_a_mapping_is_seen_until_it_ends(guest: Guest, flags: int, write: bool, seen: int) -> None:
    guest.grant(9, flags)
    assert guest.table.map_frame(9, write) == FRAME << PAGE_SHIFT
    assert guest.flags(9) == flags | seen
    guest.table.unmap_frame(9, write)
    assert guest.flags(9) == flags
    assert guest.table.pinned() == {}


def test_the_guest_sees_no_more_use_than_there_is(guest: Guest) -> None:
    guest.grant(9, PERMIT_ACCESS)
    guest.table.map_frame(9, False)
    guest.table.map_frame(9, True)
    guest.table.map_frame(9, True)
    assert guest.table.pinned() == {9: (1, 2)}
    for write, seen in ((True, READING | WRITING), (True, READING), (False, 0)):
        guest.table.unmap_frame(9, write)
        assert guest.flags(9) == PERMIT_ACCESS | seen
    with pytest.raises(ValueError, match="not pinned"):
        guest.table.unmap_frame(9, False)


@pytest.mark.parametrize(
    ("flags", "domid", "mfn", "write", "status"),
    [
        (0, 0, FRAME, False, GrantStatus.GENERAL_ERROR),
        (ACCEPT_TRANSFER, 0, FRAME, False, GrantStatus.GENERAL_ERROR),
        (TRANSITIVE, 0, FRAME, False, GrantStatus.GENERAL_ERROR),
        (PERMIT_ACCESS | SUB_PAGE, 0, FRAME, False, GrantStatus.GENERAL_ERROR),
        (PERMIT_ACCESS, 1, FRAME, False, GrantStatus.GENERAL_ERROR),
        (PERMIT_ACCESS, 0x7FF0, FRAME, False, GrantStatus.GENERAL_ERROR),
        (PERMIT_ACCESS | READONLY, 0, FRAME, True, GrantStatus.GENERAL_ERROR),
        *((PERMIT_ACCESS, 0, mfn, False, GrantStatus.BAD_PAGE) for mfn in BAD_FRAMES),
    ],
)
def test_what_was_not_granted_is_not_mapped(
    guest: Guest, flags: int, domid: int, mfn: int, write: bool, status: GrantStatus
) -> None:
    guest.grant(9, flags, domid, mfn)
    assert status_of(guest, 9, write) is status
    assert guest.flags(9) == flags
    assert guest.table.pinned() == {}


def test_a_frame_number_of_64_bits_is_read_whole() -> None:
    guest = Guest(2)
    guest.grant(9, PERMIT_ACCESS, mfn=1 << 32 | FRAME)
    assert status_of(guest, 9, False) is GrantStatus.BAD_PAGE


@given(st.integers(0, (1 << 32) - 1), st.sampled_from([1, 2]))
def test_references_are_bounded(ref: int, version: int) -> None:
    guest = Guest(version)
    expected = GrantStatus.BAD_GNTREF
    if ref < PAGE_SIZE // (8 if version == 1 else 16):
        expected = GrantStatus.GENERAL_ERROR
    assert status_of(guest, ref, False) is expected


def test_references_follow_the_tables_size(guest: Guest) -> None:
    beyond = PAGE_SIZE // (8 if guest.table.version == 1 else 16)
    guest.grant(beyond, PERMIT_ACCESS)
    assert status_of(guest, beyond, False) is GrantStatus.BAD_GNTREF
    guest.table.grow(2)
    assert guest.table.map_frame(beyond, False) == FRAME << PAGE_SHIFT


def test_a_pin_means_what_it_meant(guest: Guest) -> None:
    guest.grant(9, PERMIT_ACCESS)
    guest.table.map_frame(9, False)
    guest.grant(9, PERMIT_ACCESS | READING, domid=5, mfn=0)
    assert guest.table.map_frame(9, False) == FRAME << PAGE_SHIFT
    guest.set_flags(9, READONLY)
    assert status_of(guest, 9, True) is GrantStatus.GENERAL_ERROR
    assert guest.table.pinned() == {9: (2, 0)}


def test_a_pin_is_one_domains(guest: Guest) -> None:
    guest.grant(9, PERMIT_ACCESS, domid=1)
    assert guest.table.pin(9, 1, False, True) == (FRAME << PAGE_SHIFT, 0, PAGE_SIZE)
    guest.grant(9, PERMIT_ACCESS, domid=0)
    assert status_of(guest, 9, False) is GrantStatus.GENERAL_ERROR


def test_pins_have_an_end(guest: Guest) -> None:
    guest.grant(9, PERMIT_ACCESS)
    for _ in range(255):
        guest.table.map_frame(9, True)
    assert status_of(guest, 9, True) is GrantStatus.GENERAL_ERROR
    assert guest.table.map_frame(9, False) == FRAME << PAGE_SHIFT


def test_copies(guest: Guest) -> None:
    guest.grant(9, PERMIT_ACCESS)
    guest.table.write(9, 4090, b"sixsix")
    assert guest.memory.read((FRAME << PAGE_SHIFT) + 4090, 6) == b"sixsix"
    assert guest.table.read(9, 4093, 3) == b"six"
    assert guest.table.read(9, 4096, 0) == b""
    assert guest.flags(9) == PERMIT_ACCESS
    guest.grant(9, PERMIT_ACCESS | READONLY)
    with pytest.raises(GrantError, match="grant 9: general error"):
        guest.table.write(9, 0, b"x")


@pytest.mark.parametrize(("offset", "length"), [(4090, 7), (0, 4097), (0xFFFFFFFF, 1), (4096, 1)])
def test_a_copy_stays_in_its_page(guest: Guest, offset: int, length: int) -> None:
    guest.grant(9, PERMIT_ACCESS)
    with pytest.raises(GrantError) as raised:
        guest.table.read(9, offset, length)
    assert raised.value.status is GrantStatus.BAD_COPY_ARG
    with pytest.raises(GrantError):
        guest.table.write(9, offset, bytes(length))
    assert guest.flags(9) == PERMIT_ACCESS


def test_a_part_of_a_page() -> None:
    guest = Guest(2)
    guest.grant(9, PERMIT_ACCESS | SUB_PAGE, part=(100, 10))
    assert guest.table.read(9, 100, 10) == bytes(10)
    for offset in (99, 101):
        with pytest.raises(GrantError) as raised:
            guest.table.read(9, offset, 10)
        assert raised.value.status is GrantStatus.GENERAL_ERROR
    guest.table.pin(9, 0, False, False)
    guest.set_flags(9, PERMIT_ACCESS)
    assert status_of(guest, 9, False) is GrantStatus.GENERAL_ERROR


def test_a_part_beyond_its_page() -> None:
    guest = Guest(2)
    guest.grant(9, PERMIT_ACCESS | SUB_PAGE, part=(0xFFFF, 0xFFFF))
    with pytest.raises(GrantError):
        guest.table.read(9, 0xFFFF, 1)


def test_the_version_changes_only_while_nothing_is_in_use(guest: Guest) -> None:
    other = 3 - guest.table.version
    guest.grant(8, PERMIT_ACCESS)
    guest.table.map_frame(8, False)
    with pytest.raises(HypercallError) as raised:
        guest.table.set_version(other)
    assert raised.value.errno == errno.EBUSY
    guest.table.unmap_frame(8, False)
    guest.table.set_version(other)
    assert guest.table.version == other
    assert guest.flags(8) == 0


@pytest.mark.parametrize("version", [0, 3, 1 << 32])
def test_there_are_two_versions(guest: Guest, version: int) -> None:
    with pytest.raises(HypercallError) as raised:
        guest.table.set_version(version)
    assert raised.value.errno == errno.EINVAL


@pytest.mark.parametrize(("flags", "mfn"), [(TRANSITIVE, 0), (PERMIT_ACCESS, 1 << 32)])
def test_what_version_1_cannot_say_keeps_version_2(flags: int, mfn: int) -> None:
    guest = Guest(2)
    guest.grant(7, flags, mfn=mfn)
    with pytest.raises(HypercallError) as raised:
        guest.table.set_version(1)
    assert raised.value.errno == errno.ERANGE
    assert guest.flags(7) == flags


def test_swap(guest: Guest) -> None:
    guest.grant(9, PERMIT_ACCESS)
    guest.grant(10, PERMIT_ACCESS | READONLY, mfn=FRAME + 1)
    assert guest.table.swap(9, 10) is GrantStatus.OKAY
    assert guest.table.map_frame(9, False) == FRAME + 1 << PAGE_SHIFT
    assert guest.table.swap(9, 10) is GrantStatus.EAGAIN
    assert guest.table.swap(10, 9) is GrantStatus.EAGAIN
    assert guest.table.swap(9, 9) is GrantStatus.OKAY
    assert guest.table.swap(9, 1 << 20) is GrantStatus.BAD_GNTREF
    assert guest.table.swap(1 << 20, 9) is GrantStatus.BAD_GNTREF


def test_a_guest_that_changes_its_mind_all_the_time(guest: Guest) -> None:
    """A use leaves no trace once it is over, whatever it finds."""
    choices = [(PERMIT_ACCESS, 0), (0, 0), (PERMIT_ACCESS | READONLY, 0), (PERMIT_ACCESS, 1)]
    heads = [flags.to_bytes(2, "little") + domid.to_bytes(2, "little") for flags, domid in choices]
    outcomes = set()
    with mutating(guest.memory, guest.gpa + 9 * (8 if guest.table.version == 1 else 16), heads):
        guest.grant(9, PERMIT_ACCESS)
        for _ in range(20000):
            try:
                gpa = guest.table.map_frame(9, True)
            except GrantError as error:
                outcomes.add(error.status)
            else:
                assert gpa == FRAME << PAGE_SHIFT
                guest.table.unmap_frame(9, True)
    assert outcomes <= {GrantStatus.GENERAL_ERROR}
    assert guest.table.pinned() == {}
    guest.grant(9, PERMIT_ACCESS)
    guest.table.map_frame(9, True)
    guest.table.unmap_frame(9, True)
    assert guest.flags(9) == PERMIT_ACCESS
