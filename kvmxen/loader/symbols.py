"""A kernel's symbols, for crash reports."""

from __future__ import annotations

import struct
from bisect import bisect_right
from functools import cached_property

from kvmxen.errors import KvmxenError
from kvmxen.loader.elf_reader import ElfReader

# Elf64_Sym: name, info, other, shndx, value, size. pyelftools finds the table, but takes 60 us for
# a symbol, and a Linux kernel has 200,000.
_SYMBOL = struct.Struct("<IBBHQQ")
_STT_NOTYPE, _STT_FUNC = 0, 2
_SHN_UNDEF, _SHN_LORESERVE = 0, 0xFF00
# Ten times the number in a Linux with all of its drivers built in.
MAX_SYMBOLS = 1 << 21
# C++ and Rust create long names; a longer one is cut.
_LONGEST = 4096


class SymbolTable:
    """The contents of a .symtab and of its string table."""

    def __init__(self, symtab: memoryview, strtab: memoryview) -> None:
        whole = min(len(symtab) // _SYMBOL.size, MAX_SYMBOLS) * _SYMBOL.size
        self._symtab = symtab[:whole]
        self._strtab = strtab

    @classmethod
    def of(cls, image: memoryview) -> SymbolTable:
        """The symbols of the ELF file `image`; none if they cannot be read."""
        try:
            return cls(*ElfReader(image).symbols())
        except KvmxenError:
            return cls(image[:0], image[:0])

    @cached_property
    def _code(self) -> list[tuple[int, int, int]]:
        """(address, size in bytes, offset of the name), in order."""
        return sorted(
            (value, size, name)
            for name, info, _, section, value, size in _SYMBOL.iter_unpack(self._symtab)
            if name
            and info & 0xF in (_STT_NOTYPE, _STT_FUNC)
            and _SHN_UNDEF < section < _SHN_LORESERVE
        )

    def find(self, va: int) -> str | None:
        """The code at `va` as "name+0x12/0x80", or None if no symbol covers it.

        A symbol without a size reaches to the next one.
        """
        code = self._code
        at = bisect_right(code, (va, 1 << 64, 0)) - 1
        if at < 0:
            return None
        value, size, name = code[at]
        if not size and at + 1 < len(code):
            size = code[at + 1][0] - value
        if va - value >= max(size, 1):
            return None
        text, _, _ = bytes(self._strtab[name : name + _LONGEST]).partition(b"\0")
        return f"{text.decode('utf-8', 'replace')}+{va - value:#x}/{size:#x}"
