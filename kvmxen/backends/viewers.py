"""Those who look at a console from other processes: they get its history and all output.

One of them at a time may type: the first that wants to. One that reads too slowly misses the
oldest of what it has not read.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from contextlib import suppress
from typing import Protocol

from kvmxen.backends.loop import Watcher
from kvmxen.errors import KvmxenError

# Bytes of the console's output that a new viewer gets.
HISTORY = 64 << 10
# The most output that waits for one viewer, in bytes.
_UNREAD = 256 << 10
# How long the last output waits for the viewers, in s.
_LAST_S = 1.0
# The most viewers.
_MOST = 64


class Keyboard(Protocol):
    """The console of the run in progress."""

    @property
    def takes_input(self) -> bool: ...
    def type(self, data: bytes) -> None: ...


class Viewers:
    """The viewers of a domain's console, in all of its runs.

    Everything but attach() belongs to the loop's thread.
    """

    def __init__(self, loop: Watcher) -> None:
        self._loop = loop
        self._history = bytearray()
        self._viewers: list[_Viewer] = []
        # Held while the list and the history change, and while a viewer gets the history.
        self._lock = threading.Lock()
        self._closed = False
        self.keyboard: Keyboard | None = None

    def attach(self, connected: socket.socket, *, writes: bool, force: bool) -> bool:
        """Add a viewer, which then owns `connected`; returns whether it may type.

        With `force` the one that types is disconnected first. Any thread may call it.
        """
        with self._lock:
            if self._closed:
                connected.close()
                return False
            if len(self._viewers) >= _MOST:
                raise KvmxenError("too many people look at this console")
            if force and (typist := self._typist()):
                typist.hang_up()
                self._viewers.remove(typist)
            viewer = _Viewer(self, self._loop, connected, writes, bytes(self._history))
            self._viewers.append(viewer)
            types = self._typist() is viewer
        self._loop.post(viewer.serve)
        return types

    def written(self, data: bytes) -> None:
        """Show `data`, which the guest wrote."""
        with self._lock:
            self._history += data
            del self._history[:-HISTORY]
            viewers = list(self._viewers)
        for viewer in viewers:
            viewer.show(data)

    def has_room(self) -> None:
        """The guest has taken some input: let the typist continue."""
        for viewer in list(self._viewers):
            viewer.read_on()

    def typed(self, viewer: _Viewer, data: bytes) -> bool:
        """Pass on `data`, if `viewer` may type; returns whether the guest takes more now."""
        keyboard = self.keyboard
        with self._lock:
            types = self._typist() is viewer
        if types and keyboard is not None:
            keyboard.type(data)
            return keyboard.takes_input
        return True

    def remove(self, viewer: _Viewer) -> None:
        """Forget a viewer that has gone."""
        with self._lock, suppress(ValueError):
            self._viewers.remove(viewer)

    def close(self) -> None:
        """Show what is left to those who read, and disconnect everybody."""
        with self._lock:
            self._closed = True
            viewers, self._viewers = self._viewers, []
        end = time.monotonic() + _LAST_S
        for viewer in viewers:
            viewer.finish(end)

    def _typist(self) -> _Viewer | None:
        return next((viewer for viewer in self._viewers if viewer.writes), None)


class _Viewer:
    """One viewer, with `history` to show first."""

    def __init__(
        self,
        viewers: Viewers,
        loop: Watcher,
        connected: socket.socket,
        writes: bool,
        history: bytes,
    ) -> None:
        connected.setblocking(False)
        self.writes = writes
        self._viewers = viewers
        self._loop = loop
        self._socket = connected
        # The loop watches a descriptor for one direction only.
        self._output = connected.dup()
        self._unread = bytearray(history)
        self._reading = self._waiting = self._gone = False

    def serve(self) -> None:
        """Begin, in the loop's thread."""
        self.read_on()
        self.show(b"")

    def show(self, data: bytes) -> None:
        """Send `data` as far as the viewer takes it now; keep the rest."""
        if self._gone:
            return
        self._unread += data
        del self._unread[:-_UNREAD]
        try:
            while self._unread:
                del self._unread[: self._socket.send(self._unread)]
        except BlockingIOError:
            if not self._waiting:
                self._waiting = True
                self._loop.watch(self._output.fileno(), False, self._writable)
        except OSError:
            self._leave()

    def _writable(self) -> None:
        if self._gone:
            return
        self._waiting = False
        self._loop.unwatch(self._output.fileno())
        self.show(b"")

    def read_on(self) -> None:
        """Take what the viewer types."""
        if not self._reading and not self._gone:
            self._reading = True
            self._loop.watch(self._socket.fileno(), True, self._readable)

    def _readable(self) -> None:
        if self._gone:
            return
        try:
            data = self._socket.recv(2048)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._leave()
        elif not self._viewers.typed(self, data):
            self._reading = False
            self._loop.unwatch(self._socket.fileno())

    def _leave(self) -> None:
        self._viewers.remove(self)
        self._release()

    def hang_up(self) -> None:
        """Disconnect it, from any thread: the loop releases the rest."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def finish(self, end: float) -> None:
        """Show the rest, if the viewer reads it until then, and disconnect it."""
        poll = select.poll()
        poll.register(self._output, select.POLLOUT)
        with suppress(OSError):
            while self._unread and poll.poll(max(0.0, end - time.monotonic()) * 1000):
                del self._unread[: self._socket.send(self._unread)]
        self._release()

    def _release(self) -> None:
        if self._gone:
            return
        self._gone = True
        self._loop.unwatch(self._socket.fileno())
        self._loop.unwatch(self._output.fileno())
        self._socket.close()
        self._output.close()
