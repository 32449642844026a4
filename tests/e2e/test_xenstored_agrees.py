"""What our store answers to random requests is what Debian's own xenstored answers.

Two privileged clients of each; transactions have nobody in between, as the two differ on when
a transaction first looks at a node.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from benchmarks.xenstored.daemons import running
from kvmxen.abi.xs_wire import Operation as Op
from kvmxen.xenstore.connection import Connection
from kvmxen.xenstore.store import Store
from kvmxen.xenstore.wire import Message, Parser
from tests.packages import Unavailable

PATIENCE = 120.0
PATHS = [b"/t/bad//", b"/t", b"/t/a", b"/t/a/b", b"/t/a/b/c", b"/t/d", b"/t/d/e", b"/t/f/g/h", b"t"]
OPERATIONS = [
    *[Op.READ, Op.MKDIR, Op.RM, Op.DIRECTORY, Op.DIRECTORY_PART, Op.GET_PERMS, Op.SET_PERMS],
    *[Op.WRITE] * 3, Op.WATCH, Op.WATCH, Op.UNWATCH,
]  # fmt: skip


class Theirs:
    """A client of the daemon."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._socket.settimeout(PATIENCE)
        self._parser = Parser()

    def ask(self, request: Message) -> list[Message]:
        """All that comes, up to the answer to `request`."""
        self._socket.sendall(request.encode())
        found: list[Message] = []
        while not any(message.req_id == request.req_id for message in found):
            data = self._socket.recv(1 << 16)
            assert data, "the daemon is gone"
            found += self._parser.feed(data)
        return found

    def close(self) -> None:
        self._socket.close()


class Ours:
    """A client of our store."""

    def __init__(self, store: Store) -> None:
        self._connection: Connection = store.connect()
        self._parser = Parser()

    def ask(self, request: Message) -> list[Message]:
        self._connection.feed(request.encode())
        return list(self._parser.feed(self._connection.take(1 << 20)))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("xenstored")
    before = Path.cwd()
    try:
        with running("xenstored", folder) as path:
            # An address has room for 107 bytes.
            os.chdir(path.parent)
            yield path.name
    except Unavailable as problem:
        pytest.skip(f"needs Debian's xenstored: {problem}")
    finally:
        os.chdir(before)


def request(random: Random, number: int, tx: int) -> Message:
    operation = random.choice(OPERATIONS)
    # What is not a path UNWATCH calls EINVAL in the Xen that we follow, as all others do.
    body = random.choice(PATHS[operation == Op.UNWATCH :]) + b"\0"
    match operation:
        case Op.WRITE:
            body += random.choice((b"", b"1", b"\0two"))
        case Op.SET_PERMS:
            body += random.choice((b"n0\0", b"b0\0r0\0", b"x0\0", b""))
        case Op.DIRECTORY_PART:
            body += random.choice((b"0\0", b"99\0", b""))
        case Op.WATCH | Op.UNWATCH:
            body += random.choice((b"one\0", b"two\0", b""))
    return Message(operation, number, tx, body)


def comparable(messages: list[Message]) -> list[tuple[int, int, int, list[bytes]]]:
    """Without what each version chooses for itself: generations, and the order of children.

    Events, whose order follows from that, come first.
    """
    found = []
    for kind, req_id, tx_id, payload in messages:
        parts = [payload]
        if kind in (Op.DIRECTORY, Op.DIRECTORY_PART):
            parts = payload.split(b"\0")
            parts = sorted(parts[1:] if kind == Op.DIRECTORY_PART else parts)
        found.append((kind, req_id, tx_id, parts))
    events = sorted(message for message in found if message[0] == Op.WATCH_EVENT)
    return events + [message for message in found if message[0] != Op.WATCH_EVENT]


@pytest.mark.parametrize("seed", range(40))
def test_random_requests(daemon: str, seed: int) -> None:
    random, number, tx = Random(seed), 0, 0
    store = Store()
    theirs, ours = [Theirs(daemon) for _ in range(2)], [Ours(store) for _ in range(2)]
    log: list[Message] = []

    def compare(who: int, asked: Message) -> list[Message]:
        log.append(asked)
        expected, found = theirs[who].ask(asked), ours[who].ask(asked)
        # An event comes after the answer where the answer is a watch's.
        fence = Message(Op.GET_DOMAIN_PATH, number + 1_000_000, 0, b"0\0")
        for client in range(2):
            expected += theirs[client].ask(fence)
            found += ours[client].ask(fence)
        assert comparable(found) == comparable(expected), log[-20:]
        return found

    try:
        # The daemon is one for all seeds.
        for path in (b"/t\0", b"/local\0"):
            compare(0, Message(Op.RM, 1, 0, path))
        for number in range(2, 150):
            if not tx and random.random() < 0.1:
                tx = int(
                    compare(0, Message(Op.TRANSACTION_START, number, 0, b"\0"))[0].payload[:-1]
                )
            elif tx and random.random() < 0.2:
                word = random.choice((b"T\0", b"T\0", b"F\0"))
                compare(0, Message(Op.TRANSACTION_END, number, tx, word))
                tx = 0
            else:
                who = 0 if tx else random.randrange(2)
                compare(who, request(random, number, tx))
    finally:
        for client in theirs:
            client.close()
