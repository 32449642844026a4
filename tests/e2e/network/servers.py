"""Servers for guests: bulk data with its CRC-32, short connections, names. Their traffic never
leaves the machine: they listen on the loopback, or in a namespace of the test.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import zlib
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from types import TracebackType

_BLOCK = 1 << 20
# The name that a guest asks for, and the answer: an address for documentation (RFC 5737).
NAME, ADDRESS = "guest.test", "198.51.100.7"


def free_port() -> int:
    """A TCP port of the host that nobody uses."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Servers:
    """All servers, at `address` (IPv4) and, if given, `address6`; ports by name in `ports`.

    `done` yields each transfer: (what, bytes, CRC-32, the connection's segment size).
    """

    def __init__(self, address: str, address6: str | None, size: int) -> None:
        self.done: SimpleQueue[tuple[str, int, int, int]] = SimpleQueue()
        self.ports: dict[str, int] = {}
        self._size = size
        self._sockets: list[socket.socket] = []
        self._listen_all("", socket.AF_INET, address)
        if address6:
            self._listen_all("6", socket.AF_INET6, address6)
        names = self._open("names", socket.AF_INET, socket.SOCK_DGRAM, address)
        self._start(lambda: self._answer(names))

    def __enter__(self) -> Servers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for each in self._sockets:
            each.close()

    def _listen_all(self, suffix: str, family: int, host: str) -> None:
        for name, serve in (
            ("sink", self._sink),
            ("source", self._source),
            ("hello", self._hello),
        ):
            self._listen(name + suffix, family, host, serve)

    def _open(self, name: str, family: int, kind: int, host: str) -> socket.socket:
        server = socket.socket(family, kind)
        self._sockets.append(server)
        server.bind((host, 0))
        self.ports[name] = server.getsockname()[1]
        return server

    def _listen(
        self, name: str, family: int, host: str, serve: Callable[[socket.socket], None]
    ) -> None:
        server = self._open(name, family, socket.SOCK_STREAM, host)
        server.listen(128)

        def accept() -> None:
            while True:
                connection, _ = server.accept()
                self._start(partial(_closing, connection, serve))

        self._start(accept)

    @staticmethod
    def _start(what: Callable[[], None]) -> None:
        def run() -> None:
            try:
                what()
            except OSError:
                # Closed by the end of the test or of the guest.
                return

        threading.Thread(target=run, daemon=True).start()

    def _sink(self, connection: socket.socket) -> None:
        size = total = 0
        while data := connection.recv(_BLOCK):
            size += len(data)
            total = zlib.crc32(data, total)
        # A connection that the client abandoned is not a transfer.
        if size:
            self.done.put(("sink", size, total, _segment_size(connection)))

    def _source(self, connection: socket.socket) -> None:
        # Nor is one without a request.
        if not connection.recv(1):
            return
        total, block = 0, os.urandom(_BLOCK)
        for _ in range(self._size // _BLOCK):
            connection.sendall(block)
            total = zlib.crc32(block, total)
        self.done.put(("source", self._size, total, _segment_size(connection)))
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)

    @staticmethod
    def _hello(connection: socket.socket) -> None:
        connection.sendall(b"!")

    @staticmethod
    def _answer(server: socket.socket) -> None:
        """DNS (RFC 1035): NAME has ADDRESS, and no other name exists."""
        while True:
            query, client = server.recvfrom(512)
            end = query.index(b"\0", 12) + 5
            question = query[12:end]
            labels = b"".join(bytes([len(part)]) + part.encode() for part in NAME.split("."))
            found = question == labels + b"\0" + struct.pack("!HH", 1, 1)
            answer = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + socket.inet_aton(ADDRESS)
            head = query[:2] + struct.pack("!5H", 0x8180, 1, int(found), 0, 0)
            server.sendto(head + question + (answer if found else b""), client)


def _closing(connection: socket.socket, serve: Callable[[socket.socket], None]) -> None:
    with connection:
        serve(connection)


def _segment_size(connection: socket.socket) -> int:
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
