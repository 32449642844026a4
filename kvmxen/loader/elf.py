"""ELF kernels: pyelftools reads the headers, everything in them is checked here.

Every KvmxenError is phrased to follow the kernel's name.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from elftools.common.utils import struct_parse
from elftools.elf.elffile import ELFFile

from kvmxen.errors import KvmxenError
from kvmxen.loader.notes import XenNotes, check, collect, interpret
from kvmxen.loader.symbols import SymbolTable

MAGIC = b"\x7fELF"
MAX_HEADERS = 4096
MAX_SPAN = 1 << 30
_SYMBOL_SIZE = 24
_PF_RWX = 7

Header = Any  # a pyelftools Container


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

    `segments` are views of the file's bytes, and keep them; `symbols` does not.
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
    def parse(cls, image: bytes) -> ElfKernel:
        """The kernel in the ELF file whose bytes are `image`; raises KvmxenError."""
        if not image.startswith(MAGIC):
            raise KvmxenError("holds no ELF kernel; name a bzImage or an ELF kernel")
        try:
            elf = ELFFile(io.BytesIO(image))
            programs = list(_headers(elf, elf.structs.Elf_Phdr, "e_ph"))
            sections = list(_headers(elf, elf.structs.Elf_Shdr, "e_sh"))
        except KvmxenError:
            raise
        except Exception:
            # pyelftools answers junk with whatever exception it runs into.
            raise KvmxenError("is a corrupt ELF file; get it again") from None
        _check_machine(elf)
        segments = _segments(image, programs)
        descs = collect(_notes(image, programs, "p_type", "PT_NOTE", "p_offset", "p_filesz"))
        if not descs:
            descs = collect(_notes(image, sections, "sh_type", "SHT_NOTE", "sh_offset", "sh_size"))
        if not descs:
            raise KvmxenError(
                "has no Xen notes; kvmxen boots 64-bit PV kernels (in Linux: CONFIG_XEN_PV)"
            )
        notes = interpret(descs, elf["e_entry"])
        check(notes, segments[0].paddr, segments[-1].paddr + segments[-1].memsz)
        return cls(segments, notes, _symbols(image, sections))


def _check_machine(elf: ELFFile) -> None:
    if elf["e_machine"] == "EM_386" or (elf["e_machine"] == "EM_X86_64" and elf.elfclass == 32):
        raise KvmxenError("is a 32-bit kernel; kvmxen boots 64-bit PV kernels")
    if elf["e_machine"] != "EM_X86_64" or not elf.little_endian:
        raise KvmxenError("is no x86-64 kernel; kvmxen boots 64-bit PV kernels")
    if elf["e_type"] not in ("ET_EXEC", "ET_DYN"):
        raise KvmxenError("is an ELF file, but no executable; kvmxen boots 64-bit PV kernels")


def _headers(elf: ELFFile, layout: Any, field: str) -> Iterator[Header]:
    count, size = elf[f"{field}num"], elf[f"{field}entsize"]
    if count > MAX_HEADERS or (count and size != layout.sizeof()):
        raise KvmxenError(f"has {count} ELF headers of {size} bytes; it is no kernel")
    for index in range(count):
        yield struct_parse(layout, elf.stream, elf[f"{field}off"] + index * size)


def _slice(image: bytes, offset: int, size: int) -> memoryview:
    if offset + size > len(image):
        raise KvmxenError(
            f"is a truncated ELF file: it has {len(image)} of {offset + size} bytes; get it again"
        )
    return memoryview(image)[offset : offset + size]


def _segments(image: bytes, programs: list[Header]) -> tuple[Segment, ...]:
    segments = []
    for header in programs:
        # As Xen's loader has it: no access rights, not loaded.
        if header.p_type != "PT_LOAD" or not header.p_flags & _PF_RWX or not header.p_memsz:
            continue
        if header.p_filesz > header.p_memsz:
            raise KvmxenError("has a program header with more file than memory; rebuild it")
        if header.p_paddr + header.p_memsz > 1 << 64:
            raise KvmxenError("has a program header that wraps around; rebuild it")
        data = _slice(image, header.p_offset, header.p_filesz)
        segments.append(Segment(header.p_paddr, header.p_vaddr, header.p_memsz, data))
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


def _notes(
    image: bytes, headers: list[Header], kind: str, wanted: str, offset: str, size: str
) -> Iterator[memoryview]:
    for header in headers:
        # Some linkers leave p_offset zero where they have no notes: Xen's loader knows them too.
        if header[kind] == wanted and header[offset]:
            yield _slice(image, header[offset], header[size])


def _symbols(image: bytes, sections: list[Header]) -> SymbolTable:
    for header in sections:
        if header.sh_type != "SHT_SYMTAB" or header.sh_link >= len(sections):
            continue
        names = sections[header.sh_link]
        table = _slice(image, header.sh_offset, header.sh_size)
        return SymbolTable(
            bytes(table[: len(table) // _SYMBOL_SIZE * _SYMBOL_SIZE]),
            bytes(_slice(image, names.sh_offset, names.sh_size)),
        )
    return SymbolTable(b"", b"")
