"""Reads ELF files with pyelftools, and checks what pyelftools trusts.

A file may be hostile, and pyelftools trusts it. So pyelftools sees the file through a stream that
limits how much it reads, and serves only for tables, notes and names: its objects for segments and
sections read more, and some recurse without end. Source: elf(5). Every KvmxenError is phrased to
follow the kernel's name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import IO, Any, cast

from elftools.common.exceptions import ELFError
from elftools.common.utils import parse_cstring_from_stream, struct_parse
from elftools.construct import Array, ConstructError
from elftools.elf.elffile import ELFFile
from elftools.elf.enums import ENUM_NOTE_N_TYPE
from elftools.elf.notes import iter_notes

from kvmxen.errors import KvmxenError
from kvmxen.loader import guest_section
from kvmxen.loader.elf import check_elf, contents
from kvmxen.loader.facts import Facts, Load
from kvmxen.xen.abi.elfnote import NOTE_NAME

MAX_HEADERS = 4096
MAX_NOTES = 1024
MAX_NOTE_BYTES = 1 << 20
# More than the headers, notes and names need in a file with as many as are allowed.
_MOST_READS = 1 << 17
_PF_RWX = 7


class _Stream:
    """An image for pyelftools to read: without a copy, at most a MiB at once, and a bounded
    amount in all."""

    def __init__(self, image: memoryview) -> None:
        self._image = image
        self._at = 0
        self._reads = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + (len(self._image) if whence == os.SEEK_END else 0)
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int) -> bytes:
        self._reads += 1
        if self._reads > _MOST_READS:
            raise _corrupt()
        data = bytes(self._image[self._at : self._at + min(size, MAX_NOTE_BYTES)])
        self._at += len(data)
        return data


class ElfReader:
    """The tables of an ELF file for an x86-64 kernel; raises KvmxenError if it is not one."""

    def __init__(self, image: memoryview) -> None:
        check_elf(image)
        self._image = image
        try:
            self._elf = ELFFile(cast("IO[bytes]", _Stream(image)))
            self._check_machine()
            structs = self._elf.structs
            self._programs = self._table("ph", structs.Elf_Phdr)
            self._sections = self._table("sh", structs.Elf_Shdr)
        except (ELFError, ConstructError):
            raise _corrupt() from None

    def facts(self) -> Facts:
        """The file's facts; raises KvmxenError if it has nothing for Xen."""
        return Facts(self._elf["e_entry"], tuple(self._loads()), self._notes())

    def symbols(self) -> tuple[memoryview, memoryview]:
        """The first symbol table and its names, both empty if there is none."""
        for section in self._sections:
            if section.sh_type == "SHT_SYMTAB" and section.sh_link < len(self._sections):
                return self._in(section), self._in(self._sections[section.sh_link])
        return self._image[:0], self._image[:0]

    def _check_machine(self) -> None:
        machine = self._elf["e_machine"]
        if machine == "EM_386" or (machine == "EM_X86_64" and self._elf.elfclass == 32):
            raise KvmxenError("is a 32-bit kernel; kvmxen boots 64-bit PV kernels")
        if machine != "EM_X86_64" or not self._elf.little_endian:
            raise KvmxenError("is not an x86-64 kernel; kvmxen boots 64-bit PV kernels")
        if self._elf["e_type"] not in ("ET_EXEC", "ET_DYN"):
            raise KvmxenError("is an ELF file, but no executable; kvmxen boots 64-bit PV kernels")

    def _table(self, kind: str, layout: Any) -> list[Any]:
        at, size, count = (self._elf[f"e_{kind}{field}"] for field in ("off", "entsize", "num"))
        if count > MAX_HEADERS or (count and size != layout.sizeof()):
            raise KvmxenError(f"has {count} ELF headers of {size} bytes; it is not a kernel")
        table: list[Any] = struct_parse(Array(count, layout), self._elf.stream, at)
        return table

    def _loads(self) -> Iterator[Load]:
        for header in self._programs:
            # As in Xen's loader: a segment without access rights is not loaded.
            if header.p_type == "PT_LOAD" and header.p_flags & _PF_RWX and header.p_memsz:
                yield Load(
                    paddr=header.p_paddr,
                    vaddr=header.p_vaddr,
                    memsz=header.p_memsz,
                    offset=header.p_offset,
                    filesz=header.p_filesz,
                )

    def _notes(self) -> dict[int, bytes]:
        """The descriptors of Xen's notes, from the first place that has any, in the order in
        which Xen's loader looks."""
        programs = ((p.p_offset, p.p_filesz) for p in self._programs if p.p_type == "PT_NOTE")
        sections = ((s.sh_offset, s.sh_size) for s in self._sections if s.sh_type == "SHT_NOTE")
        found = self._collect(programs) or self._collect(sections)
        if not found and (section := self._named(guest_section.NAME)) is not None:
            found = guest_section.notes_of(section)
        if not found:
            raise KvmxenError(
                "has no Xen notes; kvmxen boots 64-bit PV kernels (in Linux: CONFIG_XEN_PV)"
            )
        return found

    def _collect(self, places: Iterator[tuple[int, int]]) -> dict[int, bytes]:
        """The Xen notes at `places`, (offset, size), as descriptors by type; the last one wins."""
        found: dict[int, bytes] = {}
        count = total = 0
        for offset, size in places:
            # Some linkers leave the offset zero if there are no notes; Xen's loader accepts that
            # too.
            if not offset:
                continue
            contents(self._image, offset, size)
            total += size
            if total > MAX_NOTE_BYTES:
                raise KvmxenError(
                    f"has more than {MAX_NOTE_BYTES >> 20} MiB of ELF notes; it is not a kernel"
                )
            for note in self._whole_notes(offset, offset + size):
                count += 1
                if count > MAX_NOTES:
                    raise KvmxenError(f"has more than {MAX_NOTES} ELF notes; it is not a kernel")
                if (note.n_name, note.n_namesz) == (NOTE_NAME, len(NOTE_NAME) + 1):
                    found[ENUM_NOTE_N_TYPE.get(note.n_type, note.n_type)] = note.n_descdata
        return found

    def _whole_notes(self, start: int, end: int) -> Iterator[Any]:
        """The notes between the offsets `start` and `end`; none may extend past `end`."""
        at = start
        try:
            for note in iter_notes(self._elf, start, end - start):
                at = note.n_offset + note.n_size
                # The last note's padding may be missing.
                if at - (-note.n_descsz % 4) > end or len(note.n_descdata) != note.n_descsz:
                    raise _corrupt_notes()
                yield note
        except (ELFError, ConstructError):
            raise _corrupt_notes() from None
        if bytes(self._image[at:end]).strip(b"\0"):
            raise _corrupt_notes()

    def _named(self, name: bytes) -> memoryview | None:
        """The contents of the section `name`, or None if there is none."""
        index = self._elf["e_shstrndx"]
        if index >= len(self._sections) or self._sections[index].sh_type != "SHT_STRTAB":
            return None
        names = self._sections[index].sh_offset
        for section in self._sections:
            if parse_cstring_from_stream(self._elf.stream, names + section.sh_name) == name:
                return self._in(section)
        return None

    def _in(self, section: Any) -> memoryview:
        if section.sh_type == "SHT_NOBITS":
            return self._image[:0]
        return contents(self._image, section.sh_offset, section.sh_size)


def read(image: memoryview) -> Facts:
    """The facts of the ELF file `image`; raises KvmxenError if it is not a kernel for Xen."""
    return ElfReader(image).facts()


def _corrupt() -> KvmxenError:
    return KvmxenError("is a corrupt ELF file; get it again")


def _corrupt_notes() -> KvmxenError:
    return KvmxenError("has corrupt ELF notes; get it again")
