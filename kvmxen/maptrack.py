"""Grants that the guest itself maps: a handle for each mapping.

Source: xen/common/grant_table.c (maptrack). The only grants that a guest can map are its own, as
no other guest is in this process.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

from kvmxen.abi.grant_table import MAP_DEVICE, MAP_HOST, MAP_READONLY
from kvmxen.abi.xen import DOMID_GUEST
from kvmxen.grants import GrantError, GrantTable

# Xen's default: 1,024 frames of 256 entries (opt_max_maptrack_frames).
MAX_HANDLES = 1024 * 256


@dataclass
class Mapping:
    """Grant `ref`, mapped: `flags` are the GNTMAP_* that still hold, `gpa` its frame's."""

    ref: int
    flags: int
    gpa: int

    @property
    def write(self) -> bool:
        """Whether it may be written through."""
        return not self.flags & MAP_READONLY


class Maptrack:
    """The mappings of `grants` by its own domain. Any thread."""

    def __init__(self, grants: GrantTable) -> None:
        self._grants = grants
        self._lock = Lock()
        self._mappings: dict[int, Mapping] = {}
        self._free: list[int] = []

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

    def add(self, mapping: Mapping) -> int | None:
        """A handle for `mapping`, which is pinned; None where there are too many."""
        with self._lock:
            if not self._free and len(self._mappings) == MAX_HANDLES:
                return None
            handle = self._free.pop() if self._free else len(self._mappings)
            self._mappings[handle] = mapping
            return handle

    def find(self, handle: int) -> Mapping | None:
        """The mapping of `handle`, None where there is none."""
        return self._mappings.get(handle)

    def release(self, handle: int, kinds: int) -> int:
        """Take from a mapping those of `kinds` that it has, with the handle where none is left.

        Returns what was taken, of which the pins are still to be given back.
        """
        with self._lock:
            mapping = self._mappings.get(handle)
            if mapping is None:
                return 0
            taken = mapping.flags & kinds
            mapping.flags &= ~taken
            if not mapping.flags & (MAP_DEVICE | MAP_HOST):
                del self._mappings[handle]
                self._free.append(handle)
            return taken

    def unpin(self, mapping: Mapping, kinds: int) -> None:
        """Give back the pins of `kinds`, once no translation of them is left."""
        for _ in _kinds(kinds):
            self._grants.unpin(mapping.ref, mapping.write)


def _kinds(flags: int) -> list[int]:
    return [kind for kind in (MAP_DEVICE, MAP_HOST) if flags & kind]
