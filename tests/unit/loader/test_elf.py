"""ELF files: what is read, and every reason for refusal."""

from __future__ import annotations

import random
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kvmxen
from kvmxen.errors import KvmxenError
from kvmxen.loader.bzimage import find_payload
from kvmxen.loader.decompress import decompress_payload
from kvmxen.loader.elf import ElfKernel
from kvmxen.xen.abi.elfnote import NoteType as N
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
    notes_blob,
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
        (elf(machine=EM_AARCH64), "is not an x86-64 kernel"),
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


def binutils(tool: str, *arguments: str | Path) -> str:
    """The output of a reader other than pyelftools."""
    if not shutil.which(tool):
        pytest.skip(f"needs {tool} (Debian's binutils)")
    return subprocess.run(
        [tool, *arguments], capture_output=True, text=True, check=True, env={"LC_ALL": "C"}
    ).stdout


PROPERTY = struct.pack("<II", 0xC0000002, 0)


@pytest.mark.parametrize(
    ("notes", "message"),
    [
        # pyelftools parses GNU's notes, whatever it is told about their length.
        (note(5, PROPERTY * 130_000, b"GNU\0"), "corrupt ELF notes"),
        (struct.pack("<III4s", 4, 0xFFFF_FFFF, 5, b"GNU\0") + PROPERTY * 9, "corrupt ELF notes"),
        (struct.pack("<III", 0xFFFF_FFFF, 8, 1) + b"Xen" * 9, "corrupt ELF notes"),
        (note(1, u64(ENTRY), b"four"), "corrupt ELF notes"),
        (note(1, u64(ENTRY), b"Xen\0and more\0"), "has no Xen notes"),
        (note(1, u64(ENTRY), b""), "has no Xen notes"),
        (note(6, b"linux\0") + b"\0\1", "corrupt ELF notes"),
    ],
    ids=["many", "endless", "name", "no NUL", "longer name", "no name", "rest"],
)
def test_notes_that_lead_astray(notes: bytes, message: str) -> None:
    assert message in refused(elf(notes))


def test_notes_that_are_padded_at_their_end() -> None:
    assert ElfKernel.parse(elf(notes_blob(NOTES) + bytes(16))).entry == ENTRY


def sections_at(image: bytes | bytearray) -> int:
    """The offset of the section headers in `image`."""
    return int.from_bytes(image[0x28:0x30], "little")


@pytest.mark.parametrize(
    "kind", [*range(7), *range(8, 20), 0x6FFF_FFF6, 0x6FFF_FFFD, 0x7000_0001, 0x7000_0003]
)
@pytest.mark.parametrize("link", [1, 99])
def test_sections_of_other_kinds_do_not_matter(kind: int, link: int) -> None:
    """pyelftools has objects for most of these kinds, and they refuse this one or never end."""
    image = bytearray(elf(guest_section=b"not looked at"))
    header = sections_at(image) + 4 * 64
    struct.pack_into("<II", image, header, 1, kind)
    struct.pack_into("<QI", image, header + 32, 1 << 60, link)
    struct.pack_into("<II", image, 64 + 56, 2, 4)  # its PT_NOTE becomes a PT_DYNAMIC
    assert ElfKernel.parse(bytes(image)).entry == ENTRY


def test_names_without_an_end() -> None:
    """Each of thousands of sections has a name that extends to the end of the file."""
    image = bytearray(elf({}, guest_section=b""))
    at = sections_at(image)
    strings = image[at + 3 * 64 : at + 4 * 64]
    struct.pack_into("<QQ", strings, 24, len(image) + 4096 * 64, 1 << 20)
    image[at:] = strings * 4096
    image[0x3C:0x40] = struct.pack("<HH", 4096, 0)
    assert "corrupt ELF file" in refused(bytes(image) + b"x" * (1 << 20))


def test_no_sections() -> None:
    image = bytearray(elf(symbols=[("start", ENTRY, 8)]))
    image[0x28:0x30] = bytes(8)  # e_shoff
    image[0x3A:0x40] = bytes(6)  # e_shentsize, e_shnum, e_shstrndx
    kernel = ElfKernel.parse(bytes(image))
    assert kernel.entry == ENTRY
    assert kernel.symbol(ENTRY) is None


@pytest.mark.parametrize("error", [ImportError, OSError(24, "Too many open files")])
def test_symbols_that_come_too_late(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception] | Exception
) -> None:
    """A crash is reported without names if pyelftools can no longer be loaded."""
    kernel = ElfKernel.parse(elf(symbols=[("start", ENTRY, 8)]))

    class Finder:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == "kvmxen.loader.symbols":
                raise error

    monkeypatch.delitem(sys.modules, "kvmxen.loader.symbols", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    assert kernel.symbol(ENTRY) is None


@pytest.mark.parametrize("link", [0, 1, 2, 99])
def test_symbols_that_cannot_be_read_are_none(link: int) -> None:
    image = bytearray(elf(symbols=[("start", ENTRY, 8)]))
    header = sections_at(image) + 2 * 64
    struct.pack_into("<I", image, header + 40, link)
    kernel = ElfKernel.parse(bytes(image))
    # Data in place of names gives no name.
    assert "start" not in str(kernel.symbol(ENTRY))
    struct.pack_into("<Q", image, header + 32, 1 << 60)
    assert ElfKernel.parse(bytes(image)).symbol(ENTRY) is None


def test_headers_are_as_another_reader_has_them(
    debian_kernel: Callable[[str], Path], tmp_path: Path
) -> None:
    image = bytes(decompress_payload(find_payload(debian_kernel("6.1").read_bytes())))
    (tmp_path / "vmlinux").write_bytes(image)
    lines = binutils("readelf", "-lW", tmp_path / "vmlinux").splitlines()
    rows = [re.findall("0x[0-9a-f]+", line) for line in lines if line.split()[:1] == ["LOAD"]]
    loads = [[int(number, 16) for number in row] for row in rows]
    kernel = ElfKernel.parse(image)
    assert [
        (bytes(s.data[:64]), s.paddr, s.vaddr, s.memsz, len(s.data)) for s in kernel.segments
    ] == [
        (image[offset : offset + 64], paddr, vaddr, memsz, filesz)
        for offset, vaddr, paddr, filesz, memsz, _ in loads
    ]
    assert len(loads) > 1


def test_symbols_are_as_another_reader_has_them() -> None:
    path = Path(kvmxen.__file__).parent / "guests/demo.elf"
    kernel = ElfKernel.parse(path.read_bytes())
    rows = re.findall(r"^(\w+) (\w+) [tT] (\S+)$", binutils("nm", "-S", path), re.MULTILINE)
    assert len(rows) > 10
    for address, length, name in rows:
        at, size = int(address, 16), int(length, 16)
        assert kernel.symbol(at) == f"{name}+0x0/{size:#x}"
        assert kernel.symbol(at + size - 1) == f"{name}+{size - 1:#x}/{size:#x}"


@given(st.randoms(use_true_random=False), st.integers(1, 12), st.integers(0, 4000))
def test_mutated_files_are_only_ever_refused(rng: random.Random, flips: int, cut: int) -> None:
    """Mutations hit the headers and notes, where they matter."""
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
