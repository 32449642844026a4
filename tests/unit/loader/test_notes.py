"""The meaning of Xen's notes, and those that no PV kernel can have."""

from __future__ import annotations

import re

import pytest

from kvmxen.errors import KvmxenError
from kvmxen.loader.elf_reader import MAX_NOTE_BYTES, MAX_NOTES, read
from kvmxen.loader.notes import XenNotes, check, interpret, is_guest_range
from kvmxen.xen.abi.elfnote import NoteType
from tests.unit.loader.images import (
    ENTRY,
    INIT_P2M,
    NOTES,
    START,
    VIRT_BASE,
    elf,
    note,
    notes_blob,
    u64,
)

N = NoteType
END = START + 0x3000


def collect(blob: bytes) -> dict[int, bytes]:
    """The Xen notes of an ELF file whose notes are `blob`, in a segment or in a section."""
    found = read(memoryview(elf(blob))).notes
    assert read(memoryview(elf(blob, note_sections=True))).notes == found
    return found


def notes(**changes: bytes | None) -> XenNotes:
    """NOTES with `changes`: None removes a note."""
    descs = dict(NOTES)
    for name, desc in changes.items():
        if desc is None:
            del descs[NoteType[name]]
        else:
            descs[NoteType[name]] = desc
    return interpret(collect(notes_blob(descs)), e_entry=0x1234)


def refused(**changes: bytes | None) -> str:
    with pytest.raises(KvmxenError) as caught:
        check(notes(**changes), START, END)
    return str(caught.value)


def test_golden_bytes() -> None:
    blob = bytes.fromhex(
        "04000000 08000000 0f000000 58656e00 0000008000000000"
        "04000000 05000000 06000000 58656e00 6c696e7578000000"
    )
    assert collect(blob) == {N.INIT_P2M: u64(0x80000000), N.GUEST_OS: b"linux"}


def test_only_xens_notes_count_and_the_last_one_wins() -> None:
    blob = note(1, b"1111", b"GNU\0") + note(1, b"2222") + note(1, b"3333") + note(99, b"4")
    assert collect(blob) == {1: b"3333", 99: b"4"}


def test_the_last_notes_padding_may_be_missing() -> None:
    blob = note(6, b"linux\0")[:-2]
    assert collect(blob) == {6: b"linux\0"}


@pytest.mark.parametrize("cut", [4, 11, 13, 20])
def test_notes_cut_short(cut: int) -> None:
    with pytest.raises(KvmxenError, match="corrupt ELF notes"):
        collect(note(6, b"linux and more")[:cut])


def test_notes_beyond_measure() -> None:
    with pytest.raises(KvmxenError, match="more than 1024 ELF notes"):
        collect(note(1, b"") * (MAX_NOTES + 1))
    with pytest.raises(KvmxenError, match="1 MiB of ELF notes"):
        collect(bytes(MAX_NOTE_BYTES + 1))


def test_what_linux_asks_for() -> None:
    kernel = notes(
        GUEST_VERSION=b"2.6\0",
        INIT_P2M=u64(INIT_P2M),
        MOD_START_PFN=u64(1),
        HYPERCALL_PAGE=u64(VIRT_BASE + START + 0x1000),
        FEATURES=b"!writable_page_tables|pae_pgdir_above_4gb\0",
        SUPPORTED_FEATURES=b"\x01\x88\0\0",
        PAE_MODE=b"yes\0",
        HV_START_LOW=u64(0xFFFF_8000_0000_0000),
        L1_MFN_VALID=u64(1) + u64(1),
        SUSPEND_CANCEL=b"\1\0\0\0",
        PHYS32_ENTRY=u64(0x100_0000),
    )
    assert kernel == XenNotes(
        entry=ENTRY,
        virt_base=VIRT_BASE,
        paddr_offset=0,
        hypercall_page=VIRT_BASE + START + 0x1000,
        init_p2m=INIT_P2M,
        mod_start_pfn=True,
        required=frozenset({"writable_page_tables"}),
        loader="generic",
        guest_os="linux",
        xen_version="xen-3.0",
    )
    check(kernel, START, END)


def test_defaults() -> None:
    kernel = interpret(
        collect(note(N.LOADER, b"generic\0") + note(N.XEN_VERSION, b"xen-3.0\0")),
        e_entry=START + 4,
    )
    assert (kernel.entry, kernel.virt_base, kernel.paddr_offset) == (START + 4, 0, 0)
    assert (kernel.hypercall_page, kernel.init_p2m) == (None, None)
    assert not kernel.mod_start_pfn
    check(kernel, START, END)


def test_paddr_offset() -> None:
    kernel = notes(PADDR_OFFSET=u64(VIRT_BASE))
    assert kernel.virt_offset == 0
    check(kernel, VIRT_BASE + START, VIRT_BASE + END)


def test_a_segment_below_paddr_offset() -> None:
    assert "PADDR_OFFSET note, 0x200000, above its first" in refused(PADDR_OFFSET=u64(0x20_0000))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ENTRY": u64(VIRT_BASE + START - 1)}, "entry, 0xffffffff800fffff, outside"),
        ({"ENTRY": u64(VIRT_BASE + END)}, "outside of what is loaded"),
        ({"ENTRY": None}, "entry, 0x1234, outside"),
        ({"VIRT_BASE": u64((1 << 64) - START - 0x1000)}, "where no guest can be"),
        ({"VIRT_BASE": u64(0xFFFF_8000_0000_0000)}, "where no guest can be"),
        ({"VIRT_BASE": u64(1 << 47)}, "where no guest can be"),
        ({"VIRT_BASE": u64(VIRT_BASE + 8)}, "or not at a page"),
        ({"HYPERCALL_PAGE": u64(VIRT_BASE + START - 0x1000)}, "hypercall page"),
        ({"HYPERCALL_PAGE": u64(VIRT_BASE + END)}, "hypercall page"),
        ({"HYPERCALL_PAGE": u64(VIRT_BASE + START + 0x10)}, "hypercall page"),
        ({"HYPERCALL_PAGE": u64((1 << 64) - 0x1000)}, "hypercall page"),
        ({"INIT_P2M": u64(1 << 47)}, "INIT_P2M note for its p2m list at 0x800000000000"),
        ({"INIT_P2M": u64(0xFFFF_8000_0000_0000)}, "INIT_P2M"),
        ({"INIT_P2M": u64(0xFFFF_87FF_FFFF_F000)}, "INIT_P2M"),
        ({"INIT_P2M": u64(VIRT_BASE + START)}, "INIT_P2M"),
        ({"INIT_P2M": u64(INIT_P2M + 8)}, "INIT_P2M"),
        ({"GUEST_OS": b"plan9\0", "LOADER": b"own\0"}, "loader 'own' and guest OS 'plan9'"),
        ({"XEN_VERSION": b"xen-2.0\0"}, "built for Xen version 'xen-2.0'"),
        ({"XEN_VERSION": None}, "built for Xen version ''"),
        ({"FEATURES": b"!dom0|!teleport\0"}, "'dom0', 'teleport', which kvmxen does not offer"),
    ],
)
def test_out_of_range(changes: dict[str, bytes | None], message: str) -> None:
    assert message in refused(**changes)


def test_a_number_of_a_wrong_size() -> None:
    with pytest.raises(KvmxenError, match=re.escape("ENTRY note of 3 bytes")):
        notes(ENTRY=b"abc")


def test_paddr_offset_without_virt_base() -> None:
    with pytest.raises(KvmxenError, match="PADDR_OFFSET note but no VIRT_BASE"):
        notes(PADDR_OFFSET=u64(0), VIRT_BASE=None)


def test_pvh_only() -> None:
    with pytest.raises(KvmxenError, match="PVH-only kernel; kvmxen boots 64-bit PV"):
        notes(ENTRY=None, VIRT_BASE=None, PHYS32_ENTRY=u64(START))


@pytest.mark.parametrize(
    ("start", "end", "is_guests"),
    [
        (0, 1, True),
        (0, 1 << 47, True),
        (0, (1 << 47) + 1, False),
        (1 << 47, (1 << 47) + 1, False),
        (0xFFFF_8000_0000_0000, 0xFFFF_8000_0000_1000, False),
        (0xFFFF_87FF_FFFF_F000, 0xFFFF_8800_0000_1000, False),
        (0xFFFF_8800_0000_0000, 1 << 64, True),
        (0xFFFF_8800_0000_0000, (1 << 64) + 1, False),
        (0, 1 << 64, False),
        (5, 5, False),
        (-1, 5, False),
    ],
)
def test_guest_ranges(start: int, end: int, is_guests: bool) -> None:
    assert is_guest_range(start, end) is is_guests
