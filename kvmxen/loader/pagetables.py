"""The initial page tables of a 64-bit PV guest: four levels, 4 KiB pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvmxen.kvm.layout import PAGE_SHIFT, PAGE_SIZE, Layout
from kvmxen.loader.frames import runs
from kvmxen.xen.abi import x86

if TYPE_CHECKING:
    from kvmxen.kvm.memory import GuestMemory

# A PV kernel runs in ring 3, hence the user bit. The tables' own frames stay writable; Xen would
# emulate the guest's stores to them instead.
_FLAGS = x86.PTE_PRESENT | x86.PTE_WRITE | x86.PTE_USER | x86.PTE_ACCESSED | x86.PTE_DIRTY
LEVELS = 4
_BITS = 9
_ENTRIES = 1 << _BITS
_VA_MASK = (1 << 48) - 1

# A table's level, and its number within that level, counted through the address space: level 4 has
# only number 0, level 1 has a number for each 2 MiB.
Table = tuple[int, int]


def _shift(level: int) -> int:
    return PAGE_SHIFT + level * _BITS


@dataclass(frozen=True)
class Mapping:
    """`frames` frames from `pfn` on, mapped at virtual addresses from `va` on (page-aligned)."""

    va: int
    pfn: int
    frames: int

    @property
    def end(self) -> int:
        """The virtual address after the last byte."""
        return self.va + self.frames * PAGE_SIZE

    def tables(self) -> list[Table]:
        """The tables that the mapping needs, upper levels first."""
        first = self.va & _VA_MASK
        last = (self.end - 1) & _VA_MASK
        return [
            (level, slot)
            for level in range(LEVELS, 0, -1)
            for slot in range(first >> _shift(level), (last >> _shift(level)) + 1)
        ]


class InitialPageTables:
    """A tree of tables in guest memory that grows with each mapping; the first frame is its
    root."""

    def __init__(self, memory: GuestMemory, layout: Layout) -> None:
        self._memory = memory
        self._layout = layout
        self._gpas: dict[Table, int] = {}

    def map(self, mapping: Mapping, table_pfn: int) -> None:
        """Add `mapping`; missing tables take the (zeroed) frames from `table_pfn` on."""
        missing = [table for table in mapping.tables() if table not in self._gpas]
        for pfn, table in enumerate(missing, table_pfn):
            self._add(*table, self._layout.mfn(pfn))
        for run in runs(self._layout, mapping.pfn, mapping.frames):
            page = ((mapping.va & _VA_MASK) >> PAGE_SHIFT) + run.pfn - mapping.pfn
            self._map_run(page, run.mfn, run.frames)

    def _add(self, level: int, slot: int, mfn: int) -> None:
        self._gpas[level, slot] = mfn << PAGE_SHIFT
        if level < LEVELS:
            parent = self._gpas[level + 1, slot >> _BITS]
            entry = mfn << PAGE_SHIFT | _FLAGS
            self._memory.write_u64(parent + slot % _ENTRIES * 8, entry)

    def _map_run(self, page: int, mfn: int, frames: int) -> None:
        while frames:
            index = page % _ENTRIES
            count = min(frames, _ENTRIES - index)
            gpa = self._gpas[1, page >> _BITS] + index * 8
            self._memory.fill_u64(gpa, count, mfn << PAGE_SHIFT | _FLAGS, PAGE_SIZE)
            page, mfn, frames = page + count, mfn + count, frames - count
