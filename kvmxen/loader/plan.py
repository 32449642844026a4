"""The use of a 64-bit PV guest's frames at its start.

The order is that of xen.h's "Start-of-day memory layout", and where that is silent libxc's
(tools/libs/guest/xg_dom_core.c, xg_dom_x86.c). From virt_base, which is pfn 0, on:

    kernel, ramdisk, p2m list, start_info, xenstore ring, console ring,
    page tables, boot stack, padding to 4 MiB                     all of it mapped
    ramdisk; p2m list and its page tables                         here if the notes ask for it
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from kvmxen.errors import KvmxenError
from kvmxen.kvm.layout import PAGE_SHIFT
from kvmxen.loader.elf import ElfKernel
from kvmxen.loader.frames import ENTRY_SIZE, frames_of
from kvmxen.loader.notes import is_guest_range
from kvmxen.loader.pagetables import Mapping

_ALIGNMENT = 4 << 20
_PADDING_FRAMES = (512 << 10) >> PAGE_SHIFT
_FRAMES_PER_MIB = (1 << 20) >> PAGE_SHIFT


@dataclass(frozen=True)
class PvPlan:
    """The places of the parts: `region` is the initial mapping, plain numbers are pfns.

    `p2m_tables` is the number of page-table frames behind the p2m list if it has a mapping of its
    own, 0 if it lies in `region`.
    """

    region: Mapping
    ramdisk: int
    p2m: Mapping
    p2m_tables: int
    start_info: int
    store: int
    console: int
    tables: int
    nr_tables: int
    stack: int

    def va(self, pfn: int) -> int:
        """The virtual address of frame `pfn` in `region`."""
        return self.region.va + (pfn << PAGE_SHIFT)


class _Frames:
    """The guest's frames, handed out from pfn 0 up."""

    def __init__(self, total: int) -> None:
        self.used = 0
        self._total = total

    def take(self, frames: int, what: str) -> int:
        """The first pfn of the next `frames`; raises KvmxenError if there are not that many."""
        if self.used + frames > self._total:
            raise KvmxenError(
                f"{what} of {_mib(frames)} MiB does not fit: {_mib(self.used)} of the guest's "
                f"{_mib(self._total)} MiB are taken; give the guest more memory"
            )
        pfn, self.used = self.used, self.used + frames
        return pfn


def plan_pv(kernel: ElfKernel, nr_pages: int, ramdisk_bytes: int) -> PvPlan:
    """Plan a guest of `nr_pages` frames; raises KvmxenError if the parts do not fit."""
    notes = kernel.notes
    base = notes.virt_base
    ramdisk_frames = frames_of(ramdisk_bytes)
    p2m_frames = frames_of(nr_pages * ENTRY_SIZE)
    frames = _Frames(nr_pages)

    frames.take(frames_of(kernel.end - base), "the kernel")
    if not notes.mod_start_pfn:
        ramdisk = frames.take(ramdisk_frames, "the ramdisk")
    if notes.init_p2m is None:
        pfn = frames.take(p2m_frames, "the list of frames")
        p2m = Mapping(base + (pfn << PAGE_SHIFT), pfn, p2m_frames)
    start_info = frames.take(1, "start_info")
    store = frames.take(1, "the xenstore ring")
    console = frames.take(1, "the console ring")
    region = _region(base, frames.used)
    nr_tables = len(region.tables())
    tables = frames.take(nr_tables, "the page tables")
    stack = frames.take(1, "the boot stack")
    frames.take(region.frames - frames.used, "the padding of the initial mapping")
    if notes.mod_start_pfn:
        ramdisk = frames.take(ramdisk_frames, "the ramdisk")
    p2m_tables = 0
    if notes.init_p2m is not None:
        p2m = Mapping(notes.init_p2m, frames.take(p2m_frames, "the list of frames"), p2m_frames)
        if not is_guest_range(p2m.va, p2m.end) or (p2m.va < region.end and region.va < p2m.end):
            raise KvmxenError(
                f"the kernel's Xen INIT_P2M note puts the list of frames at {p2m.va:#x} to "
                f"{p2m.end:#x}, where it does not fit; give the guest less memory"
            )
        p2m_tables = len(set(p2m.tables()).difference(region.tables()))
        frames.take(p2m_tables, "the page tables of the list of frames")
    return PvPlan(
        region, ramdisk, p2m, p2m_tables, start_info, store, console, tables, nr_tables, stack
    )


def _region(base: int, used: int) -> Mapping:
    """The mapping of `used` frames, its own page tables, a boot stack and the padding."""
    tables = 0
    while True:
        end = base + (used + tables + 1 + _PADDING_FRAMES << PAGE_SHIFT)
        end = -(-end // _ALIGNMENT) * _ALIGNMENT
        if not is_guest_range(base, end):
            raise KvmxenError(
                f"the kernel and its ramdisk, {_mib(used)} MiB, do not fit the address space "
                f"from {base:#x} on; use a smaller ramdisk"
            )
        region = Mapping(base, 0, (end - base) >> PAGE_SHIFT)
        if len(region.tables()) <= tables:
            return region
        tables = len(region.tables())


def _mib(frames: int) -> float:
    return math.ceil(frames * 10 / _FRAMES_PER_MIB) / 10
