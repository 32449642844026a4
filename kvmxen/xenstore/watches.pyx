"""Watches, and which of them an event concerns (tools/xenstored/watch.c)."""

from kvmxen.xenstore.paths cimport ancestry
from kvmxen.xenstore.domain cimport Domain

from enum import Enum, auto
from operator import attrgetter

UNLIMITED = -1


class Match(Enum):
    """Which watches a change at a path concerns."""

    EXACT = auto()
    """Those on exactly that path: for the descendants of a removed node."""
    SUBTREE = auto()
    """Those on it or above it, as deep as each one looks: for any ordinary change."""
    NAMED = auto()
    """A special event with the domain in its path: those on that path, or that asked for it."""
    ANONYMOUS = auto()
    """A special event without the domain: those that set no depth."""


cdef object _SERIAL = attrgetter("serial")
cdef object _EXACT = Match.EXACT
cdef object _SUBTREE = Match.SUBTREE
cdef object _ANONYMOUS = Match.ANONYMOUS


cdef class Watch:
    """Watches `depth` levels below `path`, or UNLIMITED; `deliver(watch, path)` takes the event.

    `prefix` is the number of leading characters that the watcher did not give, if its path was
    relative. The right of `domain` to read decides.
    """

    def __init__(self, str path, bytes token, Domain domain, deliver, depth=UNLIMITED, prefix=0):
        self.path = path
        self.token = token
        self.domain = domain
        self.deliver = deliver
        self.depth = depth
        self.prefix = prefix

    cdef bint wants(self, object match, int below):
        """Whether this watch wants an event `below` levels under its path."""
        if match is _ANONYMOUS:
            return self.depth < 0
        if match is _SUBTREE and self.depth < 0:
            return True
        return below == 0 or self.depth >= below


cdef class Watches:
    """All watches by path, so that an event costs its depth and not their number."""

    def __cinit__(self):
        self._by_path = {}

    def add(self, Watch watch):
        """Add `watch`."""
        watch.serial = self._added
        self._added += 1
        self._by_path.setdefault(watch.path, []).append(watch)

    def remove(self, Watch watch):
        """Remove `watch`, which must be here."""
        here = self._by_path[watch.path]
        here.remove(watch)
        if not here:
            del self._by_path[watch.path]

    cpdef list matching(self, str path, object match):
        """The watches that a change at `path` concerns, oldest first."""
        cdef list found = []
        cdef Watch watch
        cdef int below
        if not self._by_path:
            return found
        exact = match is _EXACT or match is _ANONYMOUS
        for below, where in enumerate([path] if exact else ancestry(path)):
            here = self._by_path.get(where)
            if here is not None:
                for watch in here:
                    if watch.wants(match, below):
                        found.append(watch)
        if len(found) > 1:
            found.sort(key=_SERIAL)
        return found
