"""The grant table: frames the guest shares, and our backends' mappings of them (version 1).

Source: xen/include/public/grant_table.h, xen/common/grant_table.c.
"""

from __future__ import annotations

import errno

from kvmxen.errors import GuestFault, HypercallError
from kvmxen.layout import PAGE_SHIFT, PAGE_SIZE, XENHEAP_FRAMES, Layout
from kvmxen.memory import GuestMemory

MAX_FRAMES = 64
ENTRY_SIZE = 8
RESERVED_CONSOLE = 0
RESERVED_XENSTORE = 1

PERMIT_ACCESS = 1
TYPE_MASK = 3
READONLY = 1 << 2
READING = 1 << 3
WRITING = 1 << 4

assert MAX_FRAMES < XENHEAP_FRAMES


class GrantTable:
    """A domain's grant table: frames of the xenheap behind shared_info."""

    def __init__(self, memory: GuestMemory, layout: Layout) -> None:
        self._memory = memory
        self._layout = layout
        self._first_mfn = layout.xenheap_mfn + 1
        self._base = self._first_mfn << PAGE_SHIFT
        self.nr_frames = 1
        self._mapped: dict[int, int] = {}

    def grow(self, frames: int) -> list[int]:
        """The machine frames of the first `frames` frames of the table, growing it if need be.

        Raises HypercallError(EINVAL) beyond MAX_FRAMES.
        """
        if not 0 <= frames <= MAX_FRAMES:
            raise HypercallError(errno.EINVAL)
        self.nr_frames = max(self.nr_frames, frames)
        return [self._first_mfn + i for i in range(frames)]

    def seed(self, reference: int, mfn: int) -> None:
        """Fill one of the reserved entries as a domain builder does: `mfn` for dom0."""
        self._memory.write_u64(self._base + reference * ENTRY_SIZE, mfn << 32 | PERMIT_ACCESS)

    def map(self, reference: int, *, write: bool) -> int:
        """Map grant `reference` for a backend in dom0: the gpa of the granted frame.

        The entry shows the guest that it is in use until `unmap`. Raises GuestFault where the
        guest did not grant that, or granted a frame that is not its own.
        """
        if not 0 <= reference < self.nr_frames * PAGE_SIZE // ENTRY_SIZE:
            raise GuestFault(f"grant {reference}")
        entry = self._base + reference * ENTRY_SIZE
        value = self._memory.read_u64(entry)
        flags, domid, mfn = value & 0xFFFF, value >> 16 & 0xFFFF, value >> 32
        if (
            flags & TYPE_MASK != PERMIT_ACCESS
            or domid != 0
            or (write and flags & READONLY)
            or self._layout.pfn(mfn) is None
        ):
            raise GuestFault(f"grant {reference}")
        self._memory.set_bit(entry, 3)
        if write:
            self._memory.set_bit(entry, 4)
        self._mapped[reference] = self._mapped.get(reference, 0) + 1
        # The guest may have revoked the grant before it could see it in use.
        in_use = READING | WRITING
        if (self._memory.read_u64(entry) ^ value) & ~in_use:
            self.unmap(reference)
            raise GuestFault(f"grant {reference}")
        return mfn << PAGE_SHIFT

    def unmap(self, reference: int) -> None:
        """Undo one `map`; the last one shows the guest that the entry is free."""
        self._mapped[reference] -= 1
        if not self._mapped[reference]:
            del self._mapped[reference]
            entry = self._base + reference * ENTRY_SIZE
            self._memory.clear_bit(entry, 3)
            self._memory.clear_bit(entry, 4)
