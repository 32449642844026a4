"""Kernels made to measure: ELF files with Xen notes, and bzImages around them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kvmxen.xen.abi.elfnote import NoteType

VIRT_BASE = 0xFFFF_FFFF_8000_0000
START = 0x10_0000
ENTRY = VIRT_BASE + START + 0x20
INIT_P2M = 0x80_0000_0000
EM_386, EM_X86_64, EM_AARCH64 = 3, 62, 183
PT_LOAD, PT_NOTE = 1, 4


def u64(value: int) -> bytes:
    return struct.pack("<Q", value & (1 << 64) - 1)


Notes = Mapping[NoteType, bytes]

# Linux's notes, without the addresses of its kernel's parts.
NOTES: Notes = {
    NoteType.ENTRY: u64(ENTRY),
    NoteType.VIRT_BASE: u64(VIRT_BASE),
    NoteType.GUEST_OS: b"linux\0",
    NoteType.LOADER: b"generic\0",
    NoteType.XEN_VERSION: b"xen-3.0\0",
}


@dataclass(frozen=True)
class Load:
    """A program header; fields that are None follow from `data`."""

    paddr: int = START
    data: bytes = bytes(range(256)) * 48
    memsz: int | None = None
    filesz: int | None = None
    offset: int | None = None
    flags: int = 7


def note(kind: int, desc: bytes, name: bytes = b"Xen\0") -> bytes:
    def padded(field: bytes) -> bytes:
        return field + bytes(-len(field) % 4)

    return struct.pack("<III", len(name), len(desc), kind) + padded(name) + padded(desc)


def notes_blob(notes: Notes) -> bytes:
    return b"".join(note(kind, desc) for kind, desc in notes.items())


def elf(
    notes: Notes | bytes = NOTES,
    loads: Sequence[Load] = (Load(),),
    *,
    machine: int = EM_X86_64,
    entry: int = ENTRY,
    note_sections: bool = False,
    symbols: Sequence[tuple[str, int, int]] = (),
    guest_section: bytes | None = None,
) -> bytes:
    """An ELF64 file; `symbols` are (name, value, size) of functions in section 1.

    `guest_section` is the content of its section __xen_guest, if it has one.
    """
    blob = notes if isinstance(notes, bytes) else notes_blob(notes)
    body = bytearray()
    programs = []
    start = 64 + 56 * (len(loads) + 1)

    def place(data: bytes) -> int:
        offset = start + len(body)
        body.extend(data)
        return offset

    for load in loads:
        offset = place(load.data)
        programs.append(
            struct.pack(
                "<IIQQQQQQ",
                PT_LOAD,
                load.flags,
                offset if load.offset is None else load.offset,
                load.paddr,
                load.paddr,
                len(load.data) if load.filesz is None else load.filesz,
                len(load.data) if load.memsz is None else load.memsz,
                0x1000,
            )
        )
    at_notes = place(blob)
    kind = 0 if note_sections else PT_NOTE
    programs.append(struct.pack("<IIQQQQQQ", kind, 4, at_notes, 0, 0, len(blob), len(blob), 4))

    strtab = b"\0" + b"".join(name.encode() + b"\0" for name, _, _ in symbols)
    section_name = len(strtab)
    strtab += b"__xen_guest\0"
    symtab = bytearray(24)
    for name, value, size in symbols:
        index = strtab.index(b"\0" + name.encode() + b"\0") + 1
        symtab += struct.pack("<IBBHQQ", index, 0x12, 0, 1, value, size)
    sections = [
        (0, 0, 0, 0, 0),
        (0, 7, at_notes, len(blob), 0),  # SHT_NOTE
        (0, 2, place(bytes(symtab)), len(symtab), 3),  # SHT_SYMTAB, its names in section 3
        (0, 3, place(strtab), len(strtab), 0),  # SHT_STRTAB
    ]
    if guest_section is not None:
        sections.append((section_name, 1, place(guest_section), len(guest_section), 0))
    table = place(
        b"".join(
            struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, offset, size, link, 0, 1, 0)
            for name, kind, offset, size, link in sections
        )
    )
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack(
        "<HHIQQQIHHHHHH",
        2,
        machine,
        1,
        entry,
        64,
        table,
        0,
        64,
        56,
        len(programs),
        64,
        len(sections),
        3,
    )
    return header + b"".join(programs) + bytes(body)


def elf32() -> bytes:
    """An empty ELF32 file for i386."""
    return (
        b"\x7fELF\x01\x01\x01"
        + bytes(9)
        + struct.pack("<HHIIIIIHHHHHH", 2, EM_386, 1, 0, 0, 0, 0, 52, 32, 0, 40, 0, 0)
    )


def gzip(image: bytes) -> bytes:
    stream = zlib.compressobj(wbits=31)
    return stream.compress(image) + stream.flush()


def bzimage(payload: bytes, *, version: int = 0x20F, offset: int = 0x80) -> bytes:
    """A bzImage with three setup sectors and `payload`."""
    setup = bytearray(4 * 512 + offset)
    setup[0x1F1] = 3
    setup[0x1FE:0x200] = b"\x55\xaa"
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, version)
    struct.pack_into("<II", setup, 0x248, offset, len(payload))
    return bytes(setup) + payload + bytes(64)
