"""The domain builder as the guest sees it: every promise followed to machine memory."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import replace

import pytest

from kvmxen.errors import KvmxenError, UsageError
from kvmxen.kvm.layout import INVALID_P2M, Layout
from kvmxen.kvm.memory import GuestMemory
from kvmxen.loader.elf import ElfKernel
from kvmxen.loader.frames import fill_m2p
from kvmxen.loader.pv import PvStart, build
from kvmxen.pv.shim.plan import plan
from kvmxen.xen.abi.elfnote import NoteType
from kvmxen.xen.abi.start_info import StartInfo, StartInfoFlags
from tests.unit.loader.images import INIT_P2M, NOTES, START, VIRT_BASE, Load, Notes, elf, u64

MIB = 1 << 20
PAGE = 4096
TEXT = bytes(range(256)) * 48
DATA = b"initialised data"
DATA_AT = START + 0x5000
BSS = 0x9000
RAMDISK = bytes(range(1, 251)) * 1000
CMDLINE = "console=hvc0 root=/dev/xvda"

OWN_P2M = {NoteType.INIT_P2M: u64(INIT_P2M)}
UNMAPPED_DISK = {NoteType.MOD_START_PFN: u64(1)}
HYPERCALLS = {NoteType.HYPERCALL_PAGE: u64(VIRT_BASE + START + 0x1000)}


def kernel(*notes: Notes, loads: tuple[Load, ...] | None = None) -> ElfKernel:
    wanted = dict(NOTES)
    for more in notes:
        wanted.update(more)
    loads = loads or (Load(START, TEXT), Load(DATA_AT, DATA, memsz=BSS))
    return ElfKernel.parse(elf(wanted, loads))


class Guest:
    """A built domain, with a page-table walk of its own."""

    def __init__(
        self,
        kernel: ElfKernel,
        memory: int = 64 * MIB,
        ramdisk: bytes | None = RAMDISK,
        cmdline: str = CMDLINE,
        layout: Layout | None = None,
    ) -> None:
        self.kernel = kernel
        self.layout = layout or plan(memory, 2)
        self.memory = GuestMemory(self.layout.end)
        self.start: PvStart = build(
            self.memory, self.layout, kernel, ramdisk, cmdline, console_port=2, store_port=1
        )
        size = StartInfo.bits64.size
        self.info = StartInfo.bits64.unpack(self.read(self.start.start_info, size))

    def walk(self, va: int) -> int | None:
        """The gpa that `va` is mapped to; every entry on the way must have all of its flags."""
        table = self.start.cr3
        for shift in (39, 30, 21, 12):
            entry = self.memory.read_u64(table + (va >> shift & 511) * 8)
            if not entry:
                return None
            assert entry & ~0x000F_FFFF_FFFF_F000 == 0x67
            table = entry & 0x000F_FFFF_FFFF_F000
        return table | va & 0xFFF

    def gpa(self, va: int) -> int:
        gpa = self.walk(va)
        assert gpa is not None, f"{va:#x} is not mapped"
        return gpa

    def read(self, va: int, length: int) -> bytes:
        pages = range(va & -PAGE, va + length, PAGE)
        data = b"".join(self.memory.read(self.gpa(page), PAGE) for page in pages)
        return data[va % PAGE : va % PAGE + length]

    def pseudo_physical(self, pfn: int, length: int) -> bytes:
        pfns = range(pfn, pfn + (length + PAGE - 1) // PAGE)
        pages = (self.memory.read(self.layout.mfn(at) << 12, PAGE) for at in pfns)
        return b"".join(pages)[:length]

    def leaves(self) -> Iterator[tuple[int, int]]:
        """Every (va, mfn) of the page tables."""

        def below(table: int, va: int, shift: int) -> Iterator[tuple[int, int]]:
            for index, (entry,) in enumerate(
                struct.iter_unpack("<Q", self.memory.read(table, PAGE))
            ):
                if entry:
                    at, frame = va | index << shift, entry & 0x000F_FFFF_FFFF_F000
                    if shift == 12:
                        yield at, frame >> 12
                    else:
                        yield from below(frame, at, shift - 9)

        for va, mfn in below(self.start.cr3, 0, 39):
            yield va | (0xFFFF << 48 if va >> 47 else 0), mfn


VARIANTS = pytest.mark.parametrize(
    "notes",
    [(), (OWN_P2M,), (UNMAPPED_DISK,), (OWN_P2M, UNMAPPED_DISK)],
    ids=["plain", "own p2m", "unmapped ramdisk", "linux"],
)
SIZES = pytest.mark.parametrize("memory", [16 * MIB, 512 * MIB, 6144 * MIB])


def test_start_info_is_xens() -> None:
    golden = b"xen-3.0-x86_64".ljust(32, b"\0") + struct.pack(
        "<QQIxxxxQIxxxxQIxxxxQQQQQ", 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12
    )
    golden += b"a command".ljust(1024, b"\0") + struct.pack("<QQ", 13, 14)
    fields = [
        "nr_pages",
        "shared_info",
        "flags",
        "store_mfn",
        "store_evtchn",
        "console_mfn",
        "console_evtchn",
        "pt_base",
        "nr_pt_frames",
        "mfn_list",
        "mod_start",
        "mod_len",
    ]
    values = dict(zip(fields, range(1, 13), strict=True), first_p2m_pfn=13, nr_p2m_frames=14)
    info = StartInfo(magic=b"xen-3.0-x86_64", cmd_line=b"a command", **values)
    assert info.pack() == golden


@VARIANTS
@SIZES
def test_what_the_guest_finds(notes: tuple[Notes, ...], memory: int) -> None:
    guest = Guest(kernel(*notes), memory)
    start, info, layout = guest.start, guest.info, guest.layout
    assert start.entry == guest.kernel.entry
    assert guest.read(VIRT_BASE + START, len(TEXT)) == TEXT
    assert guest.read(VIRT_BASE + DATA_AT, BSS) == DATA + bytes(BSS - len(DATA))

    assert info.magic == b"xen-3.0-x86_64".ljust(32, b"\0")
    assert info.nr_pages == memory // PAGE
    assert info.shared_info == layout.shared_info_mfn * PAGE
    assert info.cmd_line.rstrip(b"\0").decode() == CMDLINE
    assert (info.store_evtchn, info.console_evtchn) == (1, 2)
    assert guest.gpa(start.start_info + PAGE) == info.store_mfn * PAGE == start.store_mfn * PAGE
    assert guest.gpa(start.start_info + 2 * PAGE) == info.console_mfn * PAGE
    assert info.console_mfn == start.console_mfn

    assert info.mod_len == len(RAMDISK)
    if UNMAPPED_DISK in notes:
        assert info.flags == StartInfoFlags.MOD_START_PFN | StartInfoFlags.VIRT_P2M_4TOOLS
        assert guest.pseudo_physical(info.mod_start, info.mod_len) == RAMDISK
        assert layout.mfn(info.mod_start) not in {mfn for _, mfn in guest.leaves()}
    else:
        assert info.flags == StartInfoFlags.VIRT_P2M_4TOOLS
        assert guest.read(info.mod_start, info.mod_len) == RAMDISK

    assert guest.gpa(info.pt_base) == start.cr3
    # The stack grows down from start.stack, and 512 KiB after it are mapped.
    assert guest.read(start.stack - PAGE, PAGE) == bytes(PAGE)
    assert start.stack == info.pt_base + (info.nr_pt_frames + 1) * PAGE
    assert guest.walk(start.stack + (512 << 10) - 1) is not None


@VARIANTS
@SIZES
def test_the_p2m_list(notes: tuple[Notes, ...], memory: int) -> None:
    guest = Guest(kernel(*notes), memory)
    info, layout = guest.info, guest.layout
    raw = guest.read(info.mfn_list, info.nr_pages * 8)
    assert [mfn for (mfn,) in struct.iter_unpack("<Q", raw)] == [
        extent.mfn + at for extent in layout.ram for at in range(extent.frames)
    ]
    if OWN_P2M not in notes:
        assert (info.first_p2m_pfn, info.nr_p2m_frames) == (0, 0)
        return
    assert info.mfn_list == INIT_P2M
    list_frames = (info.nr_pages * 8 + PAGE - 1) // PAGE
    assert guest.gpa(INIT_P2M) == layout.mfn(info.first_p2m_pfn) << 12
    assert info.nr_p2m_frames == list_frames + 2 + (list_frames + 511) // 512
    # The guest can return them: they are at the end of the used frames.
    assert guest.walk(INIT_P2M + list_frames * PAGE) is None


@VARIANTS
@SIZES
def test_the_initial_mapping(notes: tuple[Notes, ...], memory: int) -> None:
    """One contiguous region from virt_base, pfn by pfn, and the p2m list's if requested."""
    guest = Guest(kernel(*notes), memory)
    layout = guest.layout
    leaves = dict(guest.leaves())
    region = {va: mfn for va, mfn in leaves.items() if va >= VIRT_BASE}
    assert region == {VIRT_BASE + pfn * PAGE: layout.mfn(pfn) for pfn in range(len(region))}
    assert len(region) * PAGE % (4 * MIB) == 0
    if OWN_P2M not in notes:
        assert len(region) == len(leaves)
    # No page-table frame serves another purpose, and Xen's slots are free.
    tables = range(guest.start.cr3 >> 12, (guest.start.cr3 >> 12) + guest.info.nr_pt_frames)
    used = {guest.gpa(va) >> 12 for va in (guest.start.start_info, guest.start.stack - 1)}
    assert not used & set(tables)
    assert guest.memory.read(guest.start.cr3 + 256 * 8, 16 * 8) == bytes(16 * 8)


@pytest.mark.parametrize("part", ["kernel", "page tables", "ramdisk", "p2m list"])
def test_parts_that_lie_across_the_hole(part: str) -> None:
    """The same on a layout whose RAM is split within the part."""
    whole = Guest(kernel(UNMAPPED_DISK, OWN_P2M))
    cut = {
        "kernel": (START >> 12) + 1,
        "page tables": (whole.info.pt_base - VIRT_BASE >> 12) + 2,
        "ramdisk": whole.info.mod_start + 3,
        "p2m list": whole.info.first_p2m_pfn + 1,
    }[part]
    layout = cut_layout(whole.layout, cut)
    guest = Guest(kernel(UNMAPPED_DISK, OWN_P2M), layout=layout)
    assert guest.read(VIRT_BASE + START, len(TEXT)) == TEXT
    assert guest.pseudo_physical(whole.info.mod_start, len(RAMDISK)) == RAMDISK
    for pfn in range(layout.nr_pages):
        entry = whole.layout.mfn(pfn) + (7 if pfn >= cut else 0)
        assert int.from_bytes(guest.read(INIT_P2M + pfn * 8, 8), "little") == entry
    for va, mfn in guest.leaves():
        if va >= VIRT_BASE:
            assert mfn == layout.mfn(va - VIRT_BASE >> 12)


def cut_layout(layout: Layout, pfn: int) -> Layout:
    """`layout` with its only extent split at `pfn`, and the rest 7 frames further up."""
    (low,) = layout.ram
    first = replace(low, frames=pfn)
    second = replace(low, mfn=low.mfn + pfn + 7, pfn=pfn, frames=low.frames - pfn)
    return replace(layout, ram=(first, second), end=layout.end + 7 * PAGE)


def test_the_hypercall_page() -> None:
    guest = Guest(kernel(HYPERCALLS))
    page = guest.read(VIRT_BASE + START + 0x1000, PAGE)
    assert page[:32] == bytes.fromhex("51 4153 b800000000 0f05 415b 59 c3").ljust(32, b"\xcc")
    assert page[17 * 32 :][:14] == bytes.fromhex("51 4153 b811000000 0f05 415b 59 c3")
    assert page[23 * 32 :][:32] == bytes.fromhex("51 4153 50 b817000000 0f05").ljust(32, b"\xcc")
    assert page[127 * 32 :][3:8] == bytes.fromhex("b87f000000")
    assert guest.read(VIRT_BASE + START, PAGE) == TEXT[:PAGE]
    assert guest.read(VIRT_BASE + START + 0x2000, PAGE) == TEXT[0x2000:]


def test_no_ramdisk() -> None:
    for ramdisk in (None, b""):
        info = Guest(kernel(UNMAPPED_DISK), ramdisk=ramdisk).info
        assert (info.mod_start, info.mod_len) == (0, 0)
        assert info.flags == StartInfoFlags.VIRT_P2M_4TOOLS


def test_a_kernel_at_virtual_address_zero() -> None:
    """As in PV GRUB: no useful VIRT_BASE, segments that share a page."""
    notes = {NoteType.VIRT_BASE: u64(0), NoteType.ENTRY: u64(0)}
    loads = (Load(0, b"first" * 10, memsz=0x1230), Load(0x1230, b"second"))
    guest = Guest(kernel(notes, loads=loads))
    assert guest.start.entry == 0
    assert guest.read(0, 50) == b"first" * 10
    assert guest.read(0x1230, 6) == b"second"
    assert guest.gpa(0) == guest.layout.mfn(0) << 12


def test_paddr_offset() -> None:
    """Old kernels put their virtual addresses into p_paddr."""
    notes = {NoteType.PADDR_OFFSET: u64(VIRT_BASE)}
    guest = Guest(kernel(notes, loads=(Load(VIRT_BASE + START, TEXT),)))
    assert guest.read(VIRT_BASE + START, len(TEXT)) == TEXT
    assert guest.gpa(VIRT_BASE + START) == guest.layout.mfn(START >> 12) << 12


def test_the_longest_command_line() -> None:
    assert Guest(kernel(), cmdline="x" * 1023).info.cmd_line == b"x" * 1023 + b"\0"
    with pytest.raises(UsageError, match="has 1024 bytes"):
        Guest(kernel(), cmdline="x" * 1024)
    with pytest.raises(UsageError, match="has 1026 bytes"):
        Guest(kernel(), cmdline="é" * 513)
    with pytest.raises(UsageError, match="NUL"):
        Guest(kernel(), cmdline="a\0b")


def test_bytes_that_are_no_characters_reach_the_guest_as_they_are() -> None:
    given = bytes(range(0x80, 0x100))
    assert Guest(kernel(), cmdline=os.fsdecode(given)).info.cmd_line.rstrip(b"\0") == given


@pytest.mark.parametrize(
    ("notes", "memory", "ramdisk", "message"),
    [
        ((), MIB, None, "the kernel of 1.1 MiB does not fit: 0.0 of the guest's 1.0 MiB are taken"),
        ((), 2 * MIB, None, "the padding of the initial mapping of"),
        ((), 16 * MIB, bytes(16 * MIB), "the ramdisk of 16.0 MiB does not fit: 1.1 of the guest's"),
        (
            (UNMAPPED_DISK,),
            16 * MIB,
            bytes(14 * MIB),
            "the ramdisk of 14.0 MiB does not fit: 4.0 of",
        ),
        ((OWN_P2M,), 4 * MIB, None, "the list of frames of"),
    ],
)
def test_too_little_memory(
    notes: tuple[Notes, ...], memory: int, ramdisk: bytes | None, message: str
) -> None:
    with pytest.raises(KvmxenError) as caught:
        Guest(kernel(*notes), memory, ramdisk)
    assert message in str(caught.value)
    assert str(caught.value).endswith("give the guest more memory")


def test_a_p2m_list_that_would_reach_the_kernel() -> None:
    near = {NoteType.INIT_P2M: u64(VIRT_BASE - PAGE)}
    with pytest.raises(KvmxenError, match="INIT_P2M note puts the list of frames"):
        Guest(kernel(near), 64 * MIB)


def test_a_p2m_list_that_would_reach_xen() -> None:
    near = {NoteType.INIT_P2M: u64((1 << 47) - PAGE)}
    with pytest.raises(KvmxenError, match="give the guest less memory"):
        Guest(kernel(near), 64 * MIB)


def test_a_kernel_near_the_end_of_the_address_space() -> None:
    base = (1 << 64) - 4 * MIB
    notes = {NoteType.VIRT_BASE: u64(base), NoteType.ENTRY: u64(base + START)}
    assert Guest(kernel(notes), ramdisk=None).start.entry == base + START
    with pytest.raises(KvmxenError, match="do not fit the address space"):
        Guest(kernel(notes), ramdisk=bytes(3 * MIB))


@SIZES
def test_the_machine_to_physical_table(memory: int) -> None:
    layout = plan(memory, 1)
    guest = GuestMemory(layout.end)
    fill_m2p(guest, layout)
    raw = guest.view(layout.m2p_gpa, layout.max_mfn * 8).cast("Q")
    edges = {0, layout.shared_info_mfn, layout.max_mfn - 1}
    for extent in layout.ram:
        edges |= {extent.mfn - 1, extent.mfn, extent.mfn + 1, extent.mfn + extent.frames - 1}
        edges |= {min(extent.mfn + extent.frames, layout.max_mfn - 1)}
    for mfn in edges:
        pfn = layout.pfn(mfn)
        assert raw[mfn] == (INVALID_P2M if pfn is None else pfn)
