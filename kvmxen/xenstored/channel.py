"""One client's socket and its connection to the store: bytes from one to the other."""

from __future__ import annotations

import select
import socket
from contextlib import suppress

from kvmxen.xenstore.connection import Connection

# From so many unread bytes on, no more requests are taken.
_ENOUGH = 64 << 10
# A reply may be 200 times its request, so requests are taken in small portions.
_PORTION = 4096
_ALL = 1 << 30


class Overrun(Exception):
    """The client let more bytes pile up than it may."""


class Channel:
    """Moves bytes between the non-blocking `sock` and `connection`, holding at most `limit`.

    `interest` is what is to be waited for next (select.EPOLLIN, EPOLLOUT or both).
    """

    def __init__(self, sock: socket.socket, connection: Connection, limit: int) -> None:
        self._socket = sock
        self._connection = connection
        self._limit = limit
        self._held = b""
        self.interest = select.EPOLLIN

    def receive(self) -> None:
        """Do what the client asked for, as far as it has read what it was answered.

        Raises EOFError and OSError where the client is gone, ProtocolError where it talks
        nonsense.
        """
        if len(self._held) >= _ENOUGH:
            return
        with suppress(BlockingIOError):
            data = self._socket.recv(_PORTION)
            if not data:
                raise EOFError
            self._connection.feed(data)

    def send(self) -> None:
        """Hand the client what it takes of what waits for it.

        Raises OSError where it is gone, and Overrun where it leaves too much.
        """
        self._held += self._connection.take(_ALL)
        if self._held:
            with suppress(BlockingIOError):
                self._held = self._held[self._socket.send(self._held) :]
        if len(self._held) > self._limit:
            raise Overrun
        self.interest = select.EPOLLIN * (len(self._held) < _ENOUGH)
        self.interest |= select.EPOLLOUT * bool(self._held)
