"""64-bit PV kernels: the bytes of an ELF file and its facts, all of them checked.

Every KvmxenError is phrased to follow the kernel's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from kvmxen.errors import KvmxenError
from kvmxen.loader.facts import Facts, Load
from kvmxen.loader.notes import XenNotes, check, interpret

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from kvmxen.loader.symbols import SymbolTable

_MAGIC = b"\x7fELF"
MAX_SPAN = 1 << 30


@dataclass(frozen=True)
class Segment:
    """A PT_LOAD: `data`, then zeros up to `memsz` bytes, at ELF addresses `paddr` and `vaddr`."""

    paddr: int
    vaddr: int
    memsz: int
    data: memoryview


@dataclass(frozen=True)
class ElfKernel:
    """A 64-bit PV kernel that passed every check; its segments are in ascending order of `paddr`.

    `image` is the file's bytes; `segments` are views of it.
    """

    segments: tuple[Segment, ...]
    notes: XenNotes
    image: memoryview

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

    @cached_property
    def _symbols(self) -> SymbolTable | None:
        try:
            from kvmxen.loader.symbols import SymbolTable
        except (ImportError, OSError):
            # kvmxen has been replaced since, or cannot open files any more; the crash must still
            # be reported.
            return None
        return SymbolTable.of(self.image)

    def symbol(self, va: int) -> str | None:
        """The code at `va` as "name+0x12/0x80", or None if the file does not say.

        The first call reads the symbols.
        """
        return self._symbols.find(va) if self._symbols else None

    @classmethod
    def parse(cls, file: Buffer) -> ElfKernel:
        """The kernel in the ELF file whose bytes are `file`; raises KvmxenError."""
        # Imported here: it imports pyelftools, which a boot of a known kernel does not need.
        from kvmxen.loader.elf_reader import read

        return cls.of(file, read(memoryview(file).cast("B")))

    @classmethod
    def of(cls, file: Buffer, facts: Facts) -> ElfKernel:
        """The kernel in `file`, whose parts `facts` locate; raises KvmxenError."""
        image = memoryview(file).cast("B")
        segments = _segments(image, facts.loads)
        notes = interpret(facts.notes, facts.entry)
        check(notes, segments[0].paddr, segments[-1].paddr + segments[-1].memsz)
        return cls(segments, notes, image)


def is_elf(head: bytes | bytearray | memoryview) -> bool:
    """Whether data that begins with `head` has an ELF file's magic."""
    return head[: len(_MAGIC)] == _MAGIC


def check_elf(head: bytes | bytearray | memoryview) -> None:
    """Raise KvmxenError unless data that begins with `head` has an ELF file's magic."""
    if not is_elf(head):
        raise KvmxenError("holds no ELF kernel; give a bzImage or an ELF kernel")


def contents(image: memoryview, offset: int, size: int) -> memoryview:
    """The `size` bytes at `offset` of `image`; raises KvmxenError if `image` is too short."""
    if offset + size > len(image):
        raise KvmxenError(
            f"is a truncated ELF file: it has {len(image)} of {offset + size} bytes; get it again"
        )
    return image[offset : offset + size]


def _segments(image: memoryview, loads: tuple[Load, ...]) -> tuple[Segment, ...]:
    segments = []
    for load in loads:
        if load.filesz > load.memsz:
            raise KvmxenError("has a program header with more file than memory; rebuild it")
        if load.paddr + load.memsz > 1 << 64:
            raise KvmxenError("has a program header that wraps around; rebuild it")
        data = contents(image, load.offset, load.filesz)
        segments.append(Segment(load.paddr, load.vaddr, load.memsz, data))
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
            f"more than {MAX_SPAN >> 20} MiB, the most for a kernel; rebuild it"
        )
    return tuple(segments)
