"""A store served on a socket, and raw clients of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kvmxen.xen.abi.xs_wire import Operation
from kvmxen.xenstore.server.client import Client
from kvmxen.xenstore.server.listener import connect
from kvmxen.xenstore.server.protocol import SOCKET
from kvmxen.xenstore.server.server import Server
from kvmxen.xenstore.store import Store
from kvmxen.xenstore.wire import Message, Parser

NAME = "web"
PATIENCE = 120.0
HELD = 1 << 20


class Raw:
    """A client that sees every byte; answers come within PATIENCE or the test fails."""

    def __init__(self, path: Path) -> None:
        self.socket = connect(path)
        self.socket.settimeout(PATIENCE)
        self._parser = Parser()
        self._waiting: list[Message] = []

    def send(self, operation: Operation, payload: bytes, number: int = 1) -> None:
        self.socket.sendall(Message(operation, number, 0, payload).encode())

    def next(self) -> Message:
        """The next message."""
        while not self._waiting:
            data = self.socket.recv(1 << 16)
            assert data, "the server closed the connection"
            self._waiting = list(self._parser.feed(data))
        return self._waiting.pop(0)

    def ask(self, operation: Operation, payload: bytes) -> bytes:
        self.send(operation, payload)
        reply = self.next()
        assert reply.type == operation, reply
        return reply.payload

    def is_closed(self) -> bool:
        """Whether the server closes the connection; reads everything until then."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionResetError:
            pass
        return True


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of the domains' folders; longer than a socket's address may be."""
    root = tmp_path / ("x" * 120)
    (root / NAME).mkdir(parents=True)
    return root


@pytest.fixture
def failures() -> list[BaseException]:
    """The server's own errors."""
    return []


@pytest.fixture
def path(store: Store, root: Path, failures: list[BaseException]) -> Iterator[Path]:
    """The socket of a server."""
    path = root / NAME / SOCKET
    with Server(store, path, failures.append, held=HELD):
        yield path
    assert failures == []
    assert not path.exists()


@pytest.fixture
def raw(path: Path) -> Iterator[Callable[[], Raw]]:
    """raw(): another client of the server."""
    with ExitStack() as clients:

        def make() -> Raw:
            client = Raw(path)
            clients.enter_context(client.socket)
            return client

        yield make


@pytest.fixture
def client(path: Path, root: Path) -> Iterator[Client]:
    client = Client(root, NAME)
    yield client
    client.close()
