"""The events of all domains of a runtime folder: of those that run, and of those to come."""

from __future__ import annotations

import ctypes
import os
import select
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kvmxen.domain.events import Event, EventStream, Happening
from kvmxen.domain.record import Identity, Record, read_identity, read_record
from kvmxen.domain.remote import RemoteDomain
from kvmxen.domain.rundir import running
from kvmxen.errors import KvmxenError

# linux/inotify.h
_IN_ATTRIB = 0x4
_IN_DELETE = 0x200
_IN_Q_OVERFLOW = 0x4000
_IN_EVENT = struct.Struct("iIII")
# How long a domain may take to answer, in s.
_PATIENCE = 5.0


@dataclass
class _Followed:
    """A domain whose events are read; those of its `past` are skipped if others were told them."""

    identity: Identity
    stream: EventStream
    skips_past: bool
    ended: bool = False


class Watch:
    """Iteration yields each event of each domain once, from the creation of this object on.

    Iteration ends after stop(). Raises KvmxenError if the host has no room for a watch.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._inotify = _inotify(root, _IN_ATTRIB | _IN_DELETE)
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._poll = select.poll()
        for fd in (self._inotify, self._stop):
            self._poll.register(fd, select.POLLIN)
        # By the descriptor of the stream.
        self._followed: dict[int, _Followed] = {}
        # The ids of the domains whose events are or were read, or were told from their records.
        self._known: set[int] = set()
        for identity in running(root):
            self._follow(identity, skips_past=True)

    def stop(self) -> None:
        """From any thread: end the iteration."""
        os.eventfd_write(self._stop, 1)

    def close(self) -> None:
        """Free everything, after the iteration has ended."""
        for followed in self._followed.values():
            followed.stream.close()
        os.close(self._inotify)
        os.close(self._stop)

    def __iter__(self) -> Iterator[tuple[Identity, Happening]]:
        while True:
            ready = {fd for fd, _ in self._poll.poll()}
            if self._stop in ready:
                return
            for fd in ready & self._followed.keys():
                yield from self._hear(fd)
            if self._inotify in ready:
                for mask, name in _changes(self._inotify):
                    if mask & _IN_Q_OVERFLOW:
                        for identity in running(self._root):
                            self._follow(identity)
                    elif mask & _IN_DELETE:
                        yield from self._missed(name)
                    elif found := read_identity(self._root / name):
                        self._follow(found)

    def _follow(self, identity: Identity, *, skips_past: bool = False) -> None:
        """Read the events of a domain, unless they are being read, or it cannot be reached yet."""
        if identity.id in self._known:
            return
        try:
            domain = RemoteDomain(identity.name, patience=_PATIENCE)
            if domain.id != identity.id:
                # The name has changed hands, which is another event.
                return
            stream = domain.events()
        except KvmxenError:
            return
        self._known.add(identity.id)
        self._poll.register(stream.fileno(), select.POLLIN)
        self._followed[stream.fileno()] = _Followed(identity, stream, skips_past)

    def _hear(self, fd: int) -> Iterator[tuple[Identity, Happening]]:
        followed = self._followed[fd]
        told = followed.stream.read()
        for happening in told or ():
            followed.ended |= happening.event is Event.ENDED
            if not (happening.past and followed.skips_past):
                yield followed.identity, happening
        if told is None:
            self._poll.unregister(fd)
            del self._followed[fd]
            followed.stream.close()
            if not followed.ended:
                self._known.discard(followed.identity.id)
                # If it runs on, this process was too slow, and has missed something.
                self._follow(followed.identity, skips_past=True)
                if followed.identity.id not in self._known:
                    self._known.add(followed.identity.id)
                    yield self._killed(followed.identity)

    def _killed(self, identity: Identity) -> tuple[Identity, Happening]:
        """The end of a domain whose process was killed, as running() records it."""
        end = time.monotonic() + _PATIENCE
        while any(one.id == identity.id for one in running(self._root)):
            # The process closes its sockets before its lock.
            if time.monotonic() > end:
                break
            time.sleep(0.01)
        return _end(identity, read_record(self._root, identity.name))

    def _missed(self, name: str) -> Iterator[tuple[Identity, Happening]]:
        """The events of a domain that came and went before it could be reached."""
        record = read_record(self._root, name)
        if record is None or record.domain.id in self._known:
            return
        self._known.add(record.domain.id)
        for told in record.events:
            yield record.domain, Happening(Event(told.event), told.at, told.end, told.reason)
        yield _end(record.domain, record)


def _end(identity: Identity, record: Record | None) -> tuple[Identity, Happening]:
    if record is None or record.domain != identity:
        return identity, Happening(Event.ENDED, 0.0, "killed")
    return identity, Happening(Event.ENDED, record.at, record.end, record.reason)


def _inotify(folder: Path, mask: int) -> int:
    """A descriptor that tells of what happens in `folder` (inotify(7), which Python lacks)."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0 or libc.inotify_add_watch(fd, os.fsencode(folder), mask) < 0:
        number = ctypes.get_errno()
        if fd >= 0:
            os.close(fd)
        raise KvmxenError(
            f"cannot watch {folder} ({os.strerror(number)}): raise fs.inotify.max_user_instances"
        )
    return fd


def _changes(inotify: int) -> Iterator[tuple[int, str]]:
    """What happened, and the name of the file that it happened to."""
    data = os.read(inotify, 1 << 16)
    while data:
        _, mask, _, length = _IN_EVENT.unpack_from(data)
        name = data[_IN_EVENT.size : _IN_EVENT.size + length].rstrip(b"\0")
        data = data[_IN_EVENT.size + length :]
        yield mask, os.fsdecode(name)
