"""The layout of a domain's machine address space (KVM's guest physical space).

A PV guest numbers its memory in pseudo-physical frames (pfn), contiguous from 0; the frames
that page tables and grants name are machine frames (mfn = gpa >> 12). From the bottom:

    0             the shim's own memory, never the guest's
    xenheap       frames that Xen shares with the guest: shared_info, grant tables
    m2p           the machine-to-physical table, read-only to the guest
    types         a word for each frame: what it is used for (pv/shim/types.h)
    RAM           up to HOLE_START, and on from HOLE_END

The hole keeps the LAPIC's and KVM's own pages clear of RAM; the guest's p2m hides it.
"""

from __future__ import annotations

from dataclasses import dataclass

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
HOLE_START = 3 << 30
HOLE_END = 4 << 30
SUPERPAGE = 2 << 20
XENHEAP_FRAMES = 256
MAX_VCPUS = 64
INVALID_P2M = (1 << 64) - 1


def _align(value: int, to: int) -> int:
    return (value + to - 1) & -to


@dataclass(frozen=True)
class Extent:
    """A run of RAM: `frames` frames from machine frame `mfn`, pseudo-physical frame `pfn`."""

    mfn: int
    pfn: int
    frames: int


@dataclass(frozen=True)
class Layout:
    """The layout of a domain of `nr_pages` frames of RAM and `vcpus` virtual CPUs.

    `ram` has room for `max_pages`; those beyond `nr_pages` start in the balloon.
    All `*_gpa` are byte addresses, `end` is the first gpa past the last byte in use.
    """

    nr_pages: int
    max_pages: int
    vcpus: int
    xenheap_gpa: int
    m2p_gpa: int
    m2p_bytes: int
    types_gpa: int
    ram: tuple[Extent, ...]
    end: int

    @classmethod
    def plan(cls, memory: int, vcpus: int, maximum: int, shim: int) -> Layout:
        """Lay out `shim` bytes of the shim's, which are whole frames, and `memory` bytes of RAM
        (rounded down to a frame), which may grow to `maximum` bytes, for `vcpus` vCPUs."""
        nr_pages = memory >> PAGE_SHIFT
        memory = max(memory, maximum)
        max_pages = memory >> PAGE_SHIFT
        m2p = _align(shim + XENHEAP_FRAMES * PAGE_SIZE, SUPERPAGE)
        # The table must also describe the frames it occupies itself, and the hole.
        m2p_bytes = _align((memory + m2p + HOLE_END) // PAGE_SIZE * 8, SUPERPAGE)
        types = m2p + m2p_bytes
        start = types + m2p_bytes
        low = min(max_pages, (HOLE_START - start) >> PAGE_SHIFT)
        ram = [Extent(start >> PAGE_SHIFT, 0, low)]
        if low < max_pages:
            ram.append(Extent(HOLE_END >> PAGE_SHIFT, low, max_pages - low))
        end = (ram[-1].mfn + ram[-1].frames) << PAGE_SHIFT
        return cls(nr_pages, max_pages, vcpus, shim, m2p, m2p_bytes, types, tuple(ram), end)

    def mfn(self, pfn: int) -> int:
        """The machine frame of pseudo-physical frame `pfn`; IndexError beyond RAM."""
        for extent in self.ram:
            if 0 <= pfn - extent.pfn < extent.frames:
                return extent.mfn + pfn - extent.pfn
        raise IndexError(f"pfn {pfn:#x} is beyond the domain's memory")

    def pfn(self, mfn: int) -> int | None:
        """The pseudo-physical frame of machine frame `mfn`, None if it is not RAM."""
        for extent in self.ram:
            if 0 <= mfn - extent.mfn < extent.frames:
                return extent.pfn + mfn - extent.mfn
        return None

    @property
    def xenheap_mfn(self) -> int:
        """The first frame that Xen shares with the guest."""
        return self.xenheap_gpa >> PAGE_SHIFT

    @property
    def shared_info_mfn(self) -> int:
        """The frame of shared_info: the xenheap's first."""
        return self.xenheap_mfn

    @property
    def absent_mfn(self) -> int:
        """A frame of ones, as a bus returns if no device answers: the xenheap's last but one."""
        return self.xenheap_mfn + XENHEAP_FRAMES - 2

    @property
    def max_mfn(self) -> int:
        """The number of meaningful entries in the machine-to-physical table."""
        return self.end >> PAGE_SHIFT
