"""A domain's events, for its listeners here and, as lines of JSON, for other processes."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

from kvmxen.domain.ending import Ending

# A client that does not read this many bytes of events is disconnected.
_UNREAD = 64 << 10


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

    `end` and `reason` describe the run that ended with it, if one did: see Ending.
    """

    event: Event
    at: float
    end: str = ""
    reason: str = ""


class EventStream:
    """The events of a domain from now on; iteration ends with the domain, or its process."""

    def __init__(self, connected: socket.socket) -> None:
        self._connected = connected
        self._received = b""

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._connected.fileno()

    def __iter__(self) -> Iterator[Happening]:
        while True:
            line, newline, rest = self._received.partition(b"\n")
            if newline:
                self._received = rest
                told = json.loads(line)
                yield Happening(Event(told.pop("event")), **told)
            elif more := self._connected.recv(4096):
                self._received += more
            else:
                return

    def wait(self, events: Collection[Event], timeout: float | None = None) -> Happening | None:
        """Read until one of `events` or the end; None if that takes `timeout` seconds, or if the
        stream ends without."""
        self._connected.settimeout(timeout)
        try:
            return next((one for one in self if one.event in events), None)
        except TimeoutError:
            return None
        finally:
            self._connected.settimeout(None)

    def close(self) -> None:
        """Ask for no more events."""
        self._connected.close()


class Feed:
    """Writes events to any number of sockets, and closes them after the last; any thread may."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._closed = False

    def attach(self, connected: socket.socket) -> None:
        """Write all events from now on to `connected`, which it then owns."""
        with suppress(OSError):
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNREAD)
        connected.setblocking(False)
        with self._lock:
            if self._closed:
                connected.close()
            else:
                self._sockets.append(connected)

    def tell(self, event: Event, ending: Ending | None) -> None:
        """Write a line for `event`; `ending` is that of the run that ended with it."""
        told: dict[str, object] = {"event": event.value, "at": time.time()}
        if ending is not None:
            told |= {"end": ending.end.name.lower(), "reason": ending.reason}
        line = json.dumps(told).encode() + b"\n"
        with self._lock:
            for connected in list(self._sockets):
                try:
                    complete = connected.send(line) == len(line)
                except OSError:
                    complete = False
                if not complete:
                    # It has gone, or it does not read: it must not believe that it missed nothing.
                    connected.close()
                    self._sockets.remove(connected)

    def close(self) -> None:
        """End every stream."""
        with self._lock:
            self._closed = True
            for connected in self._sockets:
                connected.close()
            self._sockets.clear()
