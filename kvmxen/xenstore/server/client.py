"""A minimal client of a domain's xenstore, as libxenstore is for C programs."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from kvmxen.errors import KvmxenError
from kvmxen.xen.abi.xs_wire import ERROR_NAMES, PAYLOAD_MAX, Operation
from kvmxen.xenstore.errors import XenstoreError
from kvmxen.xenstore.server.listener import connect
from kvmxen.xenstore.server.protocol import BUSY, SOCKET
from kvmxen.xenstore.wire import Message, Parser

_CODES = {name: code for code, name in ERROR_NAMES.items()}
_RECEIVE = 1 << 16


class Client:
    """A connection to the store of the domain `name` whose run directory is in `root`.

    All methods raise XenstoreError if the store refuses, and KvmxenError if there is no such
    domain or it ends. Within a transaction() they act in it.
    """

    def __init__(self, root: Path, name: str) -> None:
        self._name = name
        self._parser = Parser()
        self._messages: deque[Message] = deque()
        self._events: deque[bytes] = deque()
        self._requests = count(1)
        self._transaction = 0
        try:
            self._socket = connect(root / name / SOCKET)
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            raise KvmxenError(f"no domain named {name} is running; {_known(root)}") from None
        except OSError as error:
            raise KvmxenError(
                f"cannot reach the xenstore of {name}: {error.strerror}; "
                "only root and the user who started the domain may"
            ) from None

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def read(self, path: str) -> bytes:
        """The value of a node."""
        return self._ask(Operation.READ, path)

    def directory(self, path: str) -> list[str]:
        """The names of a node's children, in the order of their creation."""
        try:
            listing = self._ask(Operation.DIRECTORY, path)
        except XenstoreError as error:
            if error.errno != errno.E2BIG:
                raise
            listing = self._directory_in_parts(path)
        return listing.decode("latin-1").split("\0")[:-1]

    def write(self, path: str, value: bytes) -> None:
        """Set the value of a node; create it and those above it if missing."""
        self._request(Operation.WRITE, _encoded(path) + b"\0" + value)

    def rm(self, path: str) -> None:
        """Remove a node and all below it; ENOENT only if its parent is missing too."""
        self._ask(Operation.RM, path)

    def watch(self, path: str) -> None:
        """Have changes() report `path` and the nodes below it, at once and after each change."""
        self._ask(Operation.WATCH, path, path)

    def changes(self) -> Iterator[str]:
        """The paths that change, as they do; only an error ends it."""
        while True:
            while not self._events:
                self._receive()
            yield self._events.popleft().partition(b"\0")[0].decode("latin-1")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make the changes within it as one; an exception undoes them. Ends with EAGAIN if
        somebody else changed what it looked at."""
        self._transaction = int(self._ask(Operation.TRANSACTION_START, "").rstrip(b"\0"))
        try:
            yield
        except BaseException:
            self._end(b"F\0")
            raise
        self._end(b"T\0")

    def _end(self, verdict: bytes) -> None:
        try:
            self._request(Operation.TRANSACTION_END, verdict)
        finally:
            self._transaction = 0

    def _directory_in_parts(self, path: str) -> bytes:
        """A listing of any length (DIRECTORY_PART); starts again if the node changes."""
        generation, listing = b"", b""
        while True:
            reply = self._ask(Operation.DIRECTORY_PART, path, str(len(listing)))
            now, _, part = reply.partition(b"\0")
            if now != generation and listing:
                generation, listing = b"", b""
                continue
            generation = now
            if part.endswith(b"\0\0") or part == b"\0":
                return listing + part[:-1]
            listing += part

    def _ask(self, operation: Operation, *strings: str) -> bytes:
        return self._request(operation, b"".join(_encoded(s) + b"\0" for s in strings))

    def _request(self, operation: Operation, payload: bytes) -> bytes:
        if len(payload) > PAYLOAD_MAX:
            raise XenstoreError(errno.E2BIG)
        number = next(self._requests) & 0xFFFFFFFF
        request = Message(operation, number, self._transaction, payload)
        # Even if sending fails, the server may have sent the reason.
        with suppress(OSError):
            self._socket.sendall(request.encode())
        while not self._messages:
            self._receive()
        reply = self._messages.popleft()
        if reply == BUSY:
            raise KvmxenError(
                f"the xenstore of {self._name} has too many clients: stop some of them"
            )
        if reply.type == Operation.ERROR:
            raise XenstoreError(_CODES.get(reply.payload.rstrip(b"\0"), errno.EIO))
        return reply.payload

    def _receive(self) -> None:
        try:
            data = self._socket.recv(_RECEIVE)
        except ConnectionError:
            data = b""
        if not data:
            raise self._ended()
        for message in self._parser.feed(data):
            if message.type == Operation.WATCH_EVENT:
                self._events.append(message.payload)
            else:
                self._messages.append(message)

    def _ended(self) -> KvmxenError:
        return KvmxenError(f"the domain {self._name} has ended or rebooted")


def _encoded(text: str) -> bytes:
    """A person's input, byte for byte, whether or not it is UTF-8."""
    return text.encode(errors="surrogateescape")


def _known(root: Path) -> str:
    names = sorted(path.parent.name for path in root.glob(f"*/{SOCKET}"))
    return f"those that are: {', '.join(names)}" if names else "start it with kvmxen boot --name"
