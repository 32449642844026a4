"""ELF files: what is read, and every way to be refused."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given
from hypothesis import strategies as st

from kvmxen.abi.elfnote import NoteType as N
from kvmxen.errors import KvmxenError
from kvmxen.loader.bzimage import find_payload
from kvmxen.loader.decompress import decompress_payload
from kvmxen.loader.elf import ElfKernel
from tests.unit.loader.images import (
    EM_386,
    EM_AARCH64,
    ENTRY,
    INIT_P2M,
    NOTES,
    START,
    VIRT_BASE,
    Load,
    elf,
    elf32,
    note,
    u64,
)


def refused(image: bytes) -> str:
    with pytest.raises(KvmxenError) as caught:
        ElfKernel.parse(image)
    return str(caught.value)


def overlapping_notes() -> bytes:
    """Hundreds of program headers for one note of nearly a MiB."""
    image = elf(note(99, bytes((1 << 20) - 64)))
    programs = image[64 : 64 + 56] + image[64 + 56 : 64 + 2 * 56] * 300
    header = bytearray(image[:64])
    struct.pack_into("<Q", header, 0x20, len(image))
    struct.pack_into("<H", header, 0x38, 301)
    return bytes(header) + image[64:] + programs


def test_segments_in_order_of_their_addresses() -> None:
    loads = [Load(START + 0x2000, b"data", memsz=0x500), Load(START, b"text" * 64)]
    kernel = ElfKernel.parse(elf(loads=loads))
    assert [(s.paddr, s.vaddr, bytes(s.data), s.memsz) for s in kernel.segments] == [
        (START, START, b"text" * 64, 256),
        (START + 0x2000, START + 0x2000, b"data", 0x500),
    ]
    assert kernel.entry == ENTRY
    assert (kernel.start, kernel.end) == (VIRT_BASE + START, VIRT_BASE + START + 0x2500)


def test_segments_are_views_of_the_file() -> None:
    image = elf()
    assert ElfKernel.parse(image).segments[0].data.obj is image


def test_segments_without_access_or_memory_are_not_loaded() -> None:
    loads = [Load(0, b"x" * 8, flags=0), Load(0x10, b""), Load()]
    assert [s.paddr for s in ElfKernel.parse(elf(loads=loads)).segments] == [START]


def test_notes_of_sections_count_where_no_segment_has_any() -> None:
    assert ElfKernel.parse(elf(note_sections=True)).notes.virt_base == VIRT_BASE


def test_symbols() -> None:
    text = VIRT_BASE + START
    names = [("start", text, 0x10), ("startup_xen", text + 0x20, 0), ("last", text + 0x40, 8)]
    kernel = ElfKernel.parse(elf(symbols=names))
    assert kernel.symbol(text) == "start+0x0/0x10"
    assert kernel.symbol(text + 0xF) == "start+0xf/0x10"
    assert kernel.symbol(text + 0x10) is None
    assert kernel.symbol(text + 0x32) == "startup_xen+0x12/0x20"
    assert kernel.symbol(text + 0x47) == "last+0x7/0x8"
    assert kernel.symbol(text + 0x48) is None
    assert kernel.symbol(text - 1) is None
    assert kernel.symbol(0) is None


def test_no_symbols() -> None:
    assert ElfKernel.parse(elf()).symbol(ENTRY) is None


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "holds no ELF kernel"),
        (b"\x7fELF", "is a corrupt ELF file"),
        (elf()[:40], "is a corrupt ELF file"),
        (elf()[:100], "is a corrupt ELF file"),
        (elf32(), "is a 32-bit kernel; kvmxen boots 64-bit PV kernels"),
        (elf(machine=EM_386), "is a 32-bit kernel"),
        (elf(machine=EM_AARCH64), "is no x86-64 kernel"),
        (elf({}), "has no Xen notes"),
        (elf(note(1, b"1234", b"GNU\0")), "has no Xen notes"),
        (elf(note(18, u64(START))), "is a PVH-only kernel"),
        (elf(loads=[]), "nothing to load"),
        (elf(loads=[Load(memsz=8)]), "more file than memory"),
        (elf(loads=[Load(paddr=(1 << 64) - 4096)]), "wraps around"),
        (elf(loads=[Load(offset=1 << 40)]), "is a truncated ELF file"),
        (elf(loads=[Load(offset=(1 << 64) - 1)]), "is a truncated ELF file"),
        (elf(loads=[Load(), Load(START + 0x1000)]), "overlap at 0x101000"),
        (elf(loads=[Load(), Load()]), "overlap"),
        (elf(loads=[Load(memsz=1 << 31)]), "span 2048 MiB"),
        (elf(loads=[Load(), Load(1 << 50)]), "span 1073741823 MiB"),
        (overlapping_notes(), "has more than 1 MiB of ELF notes"),
        (elf(b"\xff" * 64), "has corrupt ELF notes"),
        (elf({**NOTES, N.ENTRY: u64(0)}), "entry, 0x0, outside"),
        (elf({**NOTES, N.INIT_P2M: u64(INIT_P2M + 1)}), "INIT_P2M"),
    ],
)
def test_refused(image: bytes, message: str) -> None:
    assert message in refused(image)


def test_an_object_file_is_no_kernel() -> None:
    image = bytearray(elf())
    image[16] = 1  # ET_REL
    assert "no executable" in refused(bytes(image))


@pytest.mark.parametrize("field", [0x38, 0x3C])  # e_phnum, e_shnum
def test_a_great_many_headers(field: int) -> None:
    image = bytearray(elf())
    image[field : field + 2] = b"\xff\xff"
    assert "65535 ELF headers" in refused(bytes(image))


@pytest.mark.parametrize("field", [0x36, 0x3A])  # e_phentsize, e_shentsize
def test_headers_of_another_size(field: int) -> None:
    image = bytearray(elf())
    image[field : field + 2] = b"\x08\x00"
    assert "ELF headers of 8 bytes" in refused(bytes(image))


def test_headers_are_as_another_reader_has_them(debian_kernel: Callable[[str], Path]) -> None:
    image = decompress_payload(find_payload(debian_kernel("6.1").read_bytes()))
    elf_file = ELFFile(io.BytesIO(image))
    loads = [s.header for s in elf_file.iter_segments() if s.header.p_type == "PT_LOAD"]
    assert [(s.paddr, s.vaddr, s.memsz, len(s.data)) for s in ElfKernel.parse(image).segments] == [
        (h.p_paddr, h.p_vaddr, h.p_memsz, h.p_filesz) for h in loads
    ]


@given(st.randoms(use_true_random=False), st.integers(1, 12), st.integers(0, 4000))
def test_mutated_files_are_only_ever_refused(rng: random.Random, flips: int, cut: int) -> None:
    """Mutations fall on the headers and notes, where they matter."""
    image = bytearray(elf(loads=[Load(data=b"text" * 64)], symbols=[("start", ENTRY, 8)]))
    for _ in range(flips):
        at = rng.randrange(len(image))
        image[at] = rng.choice([0, 0x7F, 0x80, 0xFF, rng.randrange(256)])
    try:
        kernel = ElfKernel.parse(bytes(image[: len(image) - cut // 100]))
    except KvmxenError:
        return
    assert kernel.start <= kernel.entry < kernel.end
    kernel.symbol(kernel.entry)
