"""ELF kernels: the headers are read and everything in them is checked here.

Source: elf(5). Every KvmxenError is phrased to follow the kernel's name. No library reads them:
its start would take as long as all the rest of the loader.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from kvmxen.errors import KvmxenError
from kvmxen.loader import guest_section
from kvmxen.loader.notes import XenNotes, check, collect, interpret
from kvmxen.loader.symbols import SymbolTable

if TYPE_CHECKING:
    from typing_extensions import Buffer

_MAGIC = b"\x7fELF"
MAX_HEADERS = 4096
MAX_SPAN = 1 << 30
# Ten times those of Linux with all of its drivers built in.
MAX_SYMBOLS = 1 << 21
# Of both classes: in e_ident the class and the byte order, type, machine.
_IDENT = struct.Struct("<4xBB10xHH")
# Of Elf64_Ehdr: entry phoff shoff, phentsize phnum, shentsize shnum, shstrndx.
_FILE = struct.Struct("<24xQQQ6xHHHHH")
# Elf64_Phdr: type flags offset vaddr paddr filesz memsz align.
_PROGRAM = struct.Struct("<IIQQQQQQ")
# Elf64_Shdr: name type flags addr offset size link info addralign entsize.
_SECTION = struct.Struct("<IIQQQQIIQQ")
_CLASS_64, _LITTLE_ENDIAN = 2, 1
_EM_386, _EM_X86_64 = 3, 62
_ET_EXEC, _ET_DYN = 2, 3
_PT_LOAD, _PT_NOTE = 1, 4
_SHT_SYMTAB, _SHT_NOTE, _SHT_NOBITS = 2, 7, 8
_SYMBOL_SIZE = 24
_PF_RWX = 7

Header = tuple[int, ...]


@dataclass(frozen=True)
class Segment:
    """A PT_LOAD: `data`, then zeros up to `memsz` bytes, at ELF addresses `paddr` and `vaddr`."""

    paddr: int
    vaddr: int
    memsz: int
    data: memoryview


@dataclass(frozen=True)
class ElfKernel:
    """A 64-bit PV kernel that passed every check, its segments by ascending `paddr`.

    `segments` and `symbols` are views of the file's bytes, and keep them.
    """

    segments: tuple[Segment, ...]
    notes: XenNotes
    symbols: SymbolTable

    @property
    def entry(self) -> int:
        """The virtual address where the first vCPU starts."""
        return self.notes.entry

    @property
    def start(self) -> int:
        """The virtual address of the first loaded byte."""
        return self.segments[0].paddr + self.notes.virt_offset

    @property
    def end(self) -> int:
        """The virtual address after the last byte that the kernel occupies."""
        last = self.segments[-1]
        return last.paddr + last.memsz + self.notes.virt_offset

    def symbol(self, va: int) -> str | None:
        """The code at `va` as "name+0x12/0x80", None where the file does not say."""
        return self.symbols.find(va)

    @classmethod
    def parse(cls, file: Buffer) -> ElfKernel:
        """The kernel in the ELF file whose bytes are `file`; raises KvmxenError."""
        image = memoryview(file).cast("B")
        check_elf(image)
        if len(image) < _IDENT.size:
            raise _corrupt()
        _check_machine(*_IDENT.unpack_from(image))
        if len(image) < _FILE.size:
            raise _corrupt()
        entry, programs_at, sections_at, *sizes, names = _FILE.unpack_from(image)
        programs = list(_headers(image, _PROGRAM, programs_at, *sizes[:2]))
        sections = list(_headers(image, _SECTION, sections_at, *sizes[2:]))
        segments = _segments(image, programs)
        notes = interpret(_descriptors(image, programs, sections, names), entry)
        check(notes, segments[0].paddr, segments[-1].paddr + segments[-1].memsz)
        return cls(segments, notes, _symbols(image, sections))


def is_elf(head: bytes | bytearray | memoryview) -> bool:
    """Whether what begins with `head` bears an ELF file's magic."""
    return head[: len(_MAGIC)] == _MAGIC


def check_elf(head: bytes | bytearray | memoryview) -> None:
    """Raise KvmxenError unless what begins with `head` bears an ELF file's magic."""
    if not is_elf(head):
        raise KvmxenError("holds no ELF kernel; name a bzImage or an ELF kernel")


def _corrupt() -> KvmxenError:
    return KvmxenError("is a corrupt ELF file; get it again")


def _check_machine(width: int, order: int, kind: int, machine: int) -> None:
    if machine == _EM_386 or (machine == _EM_X86_64 and width != _CLASS_64):
        raise KvmxenError("is a 32-bit kernel; kvmxen boots 64-bit PV kernels")
    if machine != _EM_X86_64 or order != _LITTLE_ENDIAN:
        raise KvmxenError("is no x86-64 kernel; kvmxen boots 64-bit PV kernels")
    if kind not in (_ET_EXEC, _ET_DYN):
        raise KvmxenError("is an ELF file, but no executable; kvmxen boots 64-bit PV kernels")


def _headers(
    image: memoryview, layout: struct.Struct, at: int, size: int, count: int
) -> Iterator[Header]:
    if count > MAX_HEADERS or (count and size != layout.size):
        raise KvmxenError(f"has {count} ELF headers of {size} bytes; it is no kernel")
    if at + count * size > len(image):
        raise _corrupt()
    return layout.iter_unpack(image[at : at + count * size])


def _slice(image: memoryview, offset: int, size: int) -> memoryview:
    if offset + size > len(image):
        raise KvmxenError(
            f"is a truncated ELF file: it has {len(image)} of {offset + size} bytes; get it again"
        )
    return image[offset : offset + size]


def _descriptors(
    image: memoryview, programs: list[Header], sections: list[Header], names: int
) -> dict[int, bytes]:
    """What the kernel tells of itself, as the descriptors of notes: where Xen's loader looks."""
    found = collect(
        _slice(image, offset, size)
        for kind, _, offset, _, _, size, _, _ in programs
        # Some linkers leave the offset zero where they have no notes, as Xen's loader knows.
        if kind == _PT_NOTE and offset
    )
    found = found or collect(
        _slice(image, offset, size)
        for _, kind, _, _, offset, size, *_ in sections
        if kind == _SHT_NOTE and offset
    )
    if not found and (section := _section(image, sections, names, guest_section.NAME)):
        found = guest_section.notes_of(section)
    if not found:
        raise KvmxenError(
            "has no Xen notes; kvmxen boots 64-bit PV kernels (in Linux: CONFIG_XEN_PV)"
        )
    return found


def _section(
    image: memoryview, sections: list[Header], names: int, name: bytes
) -> memoryview | None:
    """What is in the section called `name`, None if there is none; section `names` has names."""
    if names >= len(sections):
        return None
    table = _contents(image, sections[names])
    for section in sections:
        at = section[0]
        if table[at : at + len(name) + 1] == name + b"\0":
            return _contents(image, section)
    return None


def _contents(image: memoryview, section: Header) -> memoryview:
    _, kind, _, _, offset, size, *_ = section
    return image[:0] if kind == _SHT_NOBITS else _slice(image, offset, size)


def _segments(image: memoryview, programs: list[Header]) -> tuple[Segment, ...]:
    segments = []
    for kind, flags, offset, vaddr, paddr, filesz, memsz, _ in programs:
        # As Xen's loader has it: no access rights, not loaded.
        if kind != _PT_LOAD or not flags & _PF_RWX or not memsz:
            continue
        if filesz > memsz:
            raise KvmxenError("has a program header with more file than memory; rebuild it")
        if paddr + memsz > 1 << 64:
            raise KvmxenError("has a program header that wraps around; rebuild it")
        segments.append(Segment(paddr, vaddr, memsz, _slice(image, offset, filesz)))
    if not segments:
        raise KvmxenError("is an ELF file with nothing to load; kvmxen boots 64-bit PV kernels")
    segments.sort(key=lambda segment: segment.paddr)
    for one, after in pairwise(segments):
        if one.paddr + one.memsz > after.paddr:
            raise KvmxenError(f"has program headers that overlap at {after.paddr:#x}; rebuild it")
    span = segments[-1].paddr + segments[-1].memsz - segments[0].paddr
    if span > MAX_SPAN:
        raise KvmxenError(
            f"has program headers that span {span >> 20} MiB, "
            f"and more than {MAX_SPAN >> 20} MiB is no kernel; rebuild it"
        )
    return tuple(segments)


def _symbols(image: memoryview, sections: list[Header]) -> SymbolTable:
    for _, kind, _, _, offset, size, link, *_ in sections:
        if kind != _SHT_SYMTAB or link >= len(sections):
            continue
        whole = min(size // _SYMBOL_SIZE, MAX_SYMBOLS) * _SYMBOL_SIZE
        return SymbolTable(_slice(image, offset, size)[:whole], _contents(image, sections[link]))
    return SymbolTable(memoryview(b""), memoryview(b""))
