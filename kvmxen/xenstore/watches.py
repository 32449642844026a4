"""Watches and which of them an event concerns (tools/xenstored/watch.c)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from itertools import count

from kvmxen.xenstore.paths import ancestry
from kvmxen.xenstore.quota import Domain

UNLIMITED = -1


class Match(Enum):
    """Which watches a change at a path is news for."""

    EXACT = auto()
    """Those on that very path: the descendants of a removed node."""
    SUBTREE = auto()
    """Those on it or above it, as deep as each looks: any ordinary change."""
    NAMED = auto()
    """A special event with the domain in its path: those on that path, or that asked for it."""
    ANONYMOUS = auto()
    """A special event without: those that set no depth."""


@dataclass(eq=False, slots=True)
class Watch:
    """`depth` levels below `path`, or UNLIMITED; `deliver(watch, path)` takes the event.

    `prefix` is the number of leading characters that the watcher did not say, for a relative
    path. `domain` is whose right to read decides.
    """

    path: str
    token: bytes
    domain: Domain
    deliver: Callable[[Watch, str], None]
    depth: int = UNLIMITED
    prefix: int = 0
    serial: int = 0

    def wants(self, match: Match, below: int) -> bool:
        """Whether an event `below` levels under its path is news for this watch."""
        if match is Match.ANONYMOUS:
            return self.depth < 0
        if match is Match.SUBTREE and self.depth < 0:
            return True
        return below == 0 or self.depth >= below


class Watches:
    """All watches by path, so that an event costs its depth and not their number."""

    def __init__(self) -> None:
        self._by_path: dict[str, list[Watch]] = {}
        self._serials = count()

    def add(self, watch: Watch) -> None:
        """Have `watch` take part from now on."""
        watch.serial = next(self._serials)
        self._by_path.setdefault(watch.path, []).append(watch)

    def remove(self, watch: Watch) -> None:
        """Have `watch`, which must be here, no longer take part."""
        here = self._by_path[watch.path]
        here.remove(watch)
        if not here:
            del self._by_path[watch.path]

    def matching(self, path: str, match: Match) -> list[Watch]:
        """The watches that a change at `path` concerns, oldest first."""
        exact = match is Match.EXACT or match is Match.ANONYMOUS
        found: list[Watch] = []
        for below, where in enumerate([path] if exact else ancestry(path)):
            if here := self._by_path.get(where):
                found += [watch for watch in here if watch.wants(match, below)]
        if len(found) > 1:
            found.sort(key=lambda watch: watch.serial)
        return found
