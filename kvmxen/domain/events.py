"""A domain's events, for its listeners here and, as lines of JSON, for other processes."""

from __future__ import annotations

import json
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

from kvmxen.domain.ending import Ending
from kvmxen.domain.record import Told
from kvmxen.errors import KvmxenError

# A client that does not read this many bytes of events is disconnected.
_UNREAD = 64 << 10
# The number of past events that a new client gets.
_KEPT = 64
# The most clients.
_MOST = 64


class Event(Enum):
    """What happens to a domain."""

    STARTED = "started"
    PAUSED = "paused"
    UNPAUSED = "unpaused"
    REBOOTED = "rebooted"
    PRESERVED = "preserved"
    ENDED = "ended"


@dataclass(frozen=True)
class Happening:
    """An event in another process, and when it happened, in seconds as time.time() counts them.

    `end` and `reason` describe the run that ended with it, if one did: see Ending. It is `past` if
    it happened before the stream was opened.
    """

    event: Event
    at: float
    end: str = ""
    reason: str = ""
    past: bool = False


class EventStream:
    """The events of a domain: the last of the past, then all; it ends with the domain's process."""

    def __init__(self, connected: socket.socket) -> None:
        self._connected = connected
        self._received = b""
        self._told: deque[Happening] = deque()

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._connected.fileno()

    def __iter__(self) -> Iterator[Happening]:
        while True:
            while self._told:
                yield self._told.popleft()
            told = self.read()
            if told is None:
                return
            self._told += told

    def read(self) -> list[Happening] | None:
        """Wait for the next events, one or a few; None at the end."""
        while b"\n" not in self._received:
            more = self._connected.recv(4096)
            if not more:
                return None
            self._received += more
        *lines, self._received = self._received.split(b"\n")
        return [told for line in lines if (told := _happening(line))]

    def wait(self, events: Collection[Event], timeout: float | None = None) -> Happening | None:
        """Read until one of `events` happens; None after `timeout` seconds, or if none does."""
        end = None if timeout is None else time.monotonic() + timeout
        poll = select.poll()
        poll.register(self._connected, select.POLLIN)
        while True:
            while self._told:
                one = self._told.popleft()
                if one.event in events and not one.past:
                    return one
            left = None if end is None else max(0.0, end - time.monotonic()) * 1000
            if not poll.poll(left) or (told := self.read()) is None:
                return None
            self._told += told

    def close(self) -> None:
        """Ask for no more events."""
        self._connected.close()


def _happening(line: bytes) -> Happening | None:
    """The event in a line; None for one that this version does not know."""
    told = json.loads(line)
    known = {name: told[name] for name in ("at", "end", "reason", "past") if name in told}
    with suppress(ValueError):
        return Happening(Event(told["event"]), **known)
    return None


class Feed:
    """Writes events to any number of sockets, and closes them after the last; any thread may."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._past: deque[dict[str, object]] = deque(maxlen=_KEPT)
        self._closed = False

    def attach(self, connected: socket.socket) -> None:
        """Write the last events and all from now on to `connected`, which it then owns."""
        with suppress(OSError):
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNREAD)
        connected.setblocking(False)
        with self._lock:
            if len(self._sockets) >= _MOST:
                raise KvmxenError("too many processes read the events of this domain")
            past = [told | {"past": True} for told in self._past]
            if self._closed or not _send(connected, past):
                connected.close()
            else:
                self._sockets.append(connected)

    def tell(self, event: Event, ending: Ending | None) -> None:
        """Write a line for `event`; `ending` is that of the run that ended with it."""
        told: dict[str, object] = {"event": event.value, "at": time.time()}
        if ending is not None:
            told |= {"end": ending.end.name.lower(), "reason": ending.reason}
        with self._lock:
            self._past.append(told)
            for connected in list(self._sockets):
                if not _send(connected, [told]):
                    # It has gone, or it does not read: it must not believe that it missed nothing.
                    connected.close()
                    self._sockets.remove(connected)

    def past(self) -> tuple[Told, ...]:
        """The last events."""
        with self._lock:
            return tuple(Told(**told) for told in self._past)  # type: ignore[arg-type]

    def close(self) -> None:
        """End every stream."""
        with self._lock:
            self._closed = True
            for connected in self._sockets:
                connected.close()
            self._sockets.clear()


def _send(connected: socket.socket, told: list[dict[str, object]]) -> bool:
    """Send a line for each of `told`; returns whether all of it was taken at once."""
    lines = b"".join(json.dumps(one).encode() + b"\n" for one in told)
    try:
        return not lines or connected.send(lines) == len(lines)
    except OSError:
        return False
