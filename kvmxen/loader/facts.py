"""The facts of an ELF file that a boot needs, and the form in which they are kept between boots."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass

# Raise this with each change of the contents or of the reader; kvmxen then reads older kernels
# again.
_FORMAT = 1
_WORD_END = 1 << 64


@dataclass(frozen=True)
class Load:
    """A segment to load: ELF addresses, size in memory, offset and size in the file, in bytes."""

    paddr: int
    vaddr: int
    memsz: int
    offset: int
    filesz: int


@dataclass(frozen=True)
class Facts:
    """The file's claims, which may be nonsense.

    `entry` is a virtual address, `notes` the descriptors of Xen's notes by type. All other numbers
    have 64 bits.
    """

    entry: int
    loads: tuple[Load, ...]
    notes: dict[int, bytes]

    def encode(self) -> bytes:
        """The facts in the form of a file: a line that vouches for the JSON after it."""
        loads = [[at.paddr, at.vaddr, at.memsz, at.offset, at.filesz] for at in self.loads]
        notes = {kind: descriptor.hex() for kind, descriptor in self.notes.items()}
        body = json.dumps({"entry": self.entry, "loads": loads, "notes": notes}).encode("ascii")
        return _first_line(body) + body

    @classmethod
    def decode(cls, content: bytes) -> Facts:
        """The facts encoded as `content`; raises ValueError if it is anything else."""
        line, newline, body = content.partition(b"\n")
        if line + newline != _first_line(body):
            raise ValueError("another format, or damaged")
        try:
            said = json.loads(body)
            return cls(
                _word(said["entry"]),
                tuple(Load(*map(_word, load)) for load in said["loads"]),
                {_word(int(k)): bytes.fromhex(hexes) for k, hexes in said["notes"].items()},
            )
        except (AttributeError, LookupError, RecursionError, TypeError) as error:
            raise ValueError("no facts") from error


def _first_line(body: bytes) -> bytes:
    return f"kvmxen ELF facts {_FORMAT} {zlib.crc32(body):08x}\n".encode("ascii")


def _word(value: object) -> int:
    if type(value) is not int or not 0 <= value < _WORD_END:
        raise ValueError("no number of 64 bits")
    return value
