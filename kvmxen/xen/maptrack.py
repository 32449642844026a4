"""Handles for the grants that the guest itself maps.

Source: xen/common/grant_table.c (maptrack). A guest can map only its own grants, because this
process has no other guest.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

from kvmxen.xen.abi.grant_table import MAP_DEVICE, MAP_HOST, MAP_READONLY
from kvmxen.xen.abi.xen import DOMID_GUEST
from kvmxen.xen.grants import GrantError, GrantTable

# Xen's default: 1,024 frames of 256 entries (opt_max_maptrack_frames).
MAX_HANDLES = 1024 * 256


@dataclass
class Mapping:
    """A mapping of grant `ref`: `flags` are the GNTMAP_* still in force, `gpa` is its frame's."""

    ref: int
    flags: int
    gpa: int

    @property
    def write(self) -> bool:
        """Whether the mapping is writable."""
        return not self.flags & MAP_READONLY


class Maptrack:
    """The mappings of `grants` by its own domain. Any thread may call it.

    A handle is reserved before its grant is mapped and published after, so that no other vCPU can
    name an unfinished mapping, or one whose handle has been reused.
    """

    def __init__(self, grants: GrantTable) -> None:
        self._grants = grants
        self._lock = Lock()
        self._mappings: dict[int, Mapping] = {}
        self._free: list[int] = []
        self._used = 0

    def __len__(self) -> int:
        return len(self._mappings)

    def pin(self, ref: int, flags: int) -> Mapping:
        """Pin `ref` once for each kind of mapping in `flags`; raises GrantError."""
        mapping = Mapping(ref, flags, 0)
        pinned = 0
        try:
            for kind in _kinds(flags):
                mapping.gpa, _, _ = self._grants.pin(ref, DOMID_GUEST, mapping.write, mapping=True)
                pinned |= kind
        except GrantError:
            self.unpin(mapping, pinned)
            raise
        return mapping

    def reserve(self) -> int | None:
        """Reserve a handle until `publish` or `cancel`; returns None if there are none left."""
        with self._lock:
            if self._free:
                return self._free.pop()
            if self._used == MAX_HANDLES:
                return None
            self._used += 1
            return self._used - 1

    def publish(self, handle: int, mapping: Mapping) -> None:
        """Assign the reserved `handle` to `mapping`."""
        with self._lock:
            self._mappings[handle] = mapping

    def cancel(self, handle: int) -> None:
        """Undo `reserve`."""
        with self._lock:
            self._free.append(handle)

    def find(self, handle: int) -> Mapping | None:
        """The mapping of `handle`, None if there is none."""
        return self._mappings.get(handle)

    def release(self, handle: int, mapping: Mapping, kinds: int) -> int:
        """Remove `kinds` from `mapping`, and free the handle if no kind is left.

        Returns the kinds removed, whose pins the caller must give back: 0 if another vCPU was
        first, whatever `handle` means by now.
        """
        with self._lock:
            if self._mappings.get(handle) is not mapping:
                return 0
            taken = mapping.flags & kinds
            mapping.flags &= ~taken
            if not mapping.flags & (MAP_DEVICE | MAP_HOST):
                del self._mappings[handle]
                self._free.append(handle)
            return taken

    def unpin(self, mapping: Mapping, kinds: int) -> None:
        """Give back the pins of `kinds`; no translation of them may be left."""
        for _ in _kinds(kinds):
            self._grants.unpin(mapping.ref, mapping.write)


def _kinds(flags: int) -> list[int]:
    return [kind for kind in (MAP_DEVICE, MAP_HOST) if flags & kind]
