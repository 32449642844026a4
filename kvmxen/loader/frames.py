"""Maps pseudo-physical frames to machine memory through the layout's extents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kvmxen.kvm.layout import INVALID_P2M, PAGE_SHIFT, PAGE_SIZE, Extent, Layout

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from kvmxen.kvm.memory import GuestMemory

ENTRY_SIZE = 8


def frames_of(size: int) -> int:
    """The number of frames that `size` bytes need."""
    return -(-size >> PAGE_SHIFT)


def runs(layout: Layout, pfn: int, frames: int) -> Iterator[Extent]:
    """The frames [pfn, pfn + frames) as runs of adjacent machine frames, in order."""
    for extent in layout.ram:
        first = max(pfn, extent.pfn)
        end = min(pfn + frames, extent.pfn + extent.frames)
        if first < end:
            yield Extent(extent.mfn + first - extent.pfn, first, end - first)


def write(memory: GuestMemory, layout: Layout, address: int, data: Buffer) -> None:
    """Copy `data` to the pseudo-physical address `address`, in bytes; the target must be RAM."""
    view = memoryview(data).cast("B")
    end = address + len(view)
    first = address >> PAGE_SHIFT
    for run in runs(layout, first, frames_of(end) - first):
        start = max(address, run.pfn << PAGE_SHIFT)
        stop = min(end, (run.pfn + run.frames) << PAGE_SHIFT)
        gpa = (run.mfn << PAGE_SHIFT) + start - (run.pfn << PAGE_SHIFT)
        memory.write(gpa, view[start - address : stop - address])


def fill_p2m(memory: GuestMemory, layout: Layout, pfn: int) -> None:
    """Write the mfn of every pfn, 8 bytes each, to the frames from `pfn` on."""
    per_frame = PAGE_SIZE // ENTRY_SIZE
    for run in runs(layout, pfn, frames_of(layout.nr_pages * ENTRY_SIZE)):
        first = (run.pfn - pfn) * per_frame
        gpa = run.mfn << PAGE_SHIFT
        for part in runs(layout, first, min(run.frames * per_frame, layout.nr_pages - first)):
            memory.fill_u64(gpa + (part.pfn - first) * ENTRY_SIZE, part.frames, part.mfn, 1)


def fill_m2p(memory: GuestMemory, layout: Layout) -> None:
    """Write the machine-to-physical table: the pfns of the RAM that the guest has at its start,
    and INVALID_P2M for all other frames."""
    memory.fill_u64(layout.m2p_gpa, layout.max_mfn, INVALID_P2M, 0)
    for run in runs(layout, 0, layout.nr_pages):
        gpa = layout.m2p_gpa + run.mfn * ENTRY_SIZE
        memory.fill_u64(gpa, run.frames, run.pfn, 1)
