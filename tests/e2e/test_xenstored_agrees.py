"""Our store answers random requests as Debian's own xenstored does.

The clients are privileged. The two differ on when a transaction first looks at a node. So of
transactions with others in between, the daemon gets only those that ours committed, in the order
of the commits and one by one: that is what a transaction promises.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from benchmarks.xenstored.daemons import running
from kvmxen.xen.abi.xs_wire import Operation as Op
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


CLIENTS = 4
# Nodes that several clients create below a directory that did not exist.
SHARED = [b"/t/n/%d/%d%s" % (i, j, end) for i in range(3) for j in range(3) for end in (b"", b"/x")]


class Theirs:
    """A client of the daemon."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._socket.settimeout(PATIENCE)
        self._parser = Parser()

    def ask(self, request: Message) -> list[Message]:
        """All messages up to the answer to `request`."""
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
            # A socket address has room for 107 bytes.
            os.chdir(path.parent)
            yield path.name
    except Unavailable as problem:
        pytest.skip(f"needs Debian's xenstored: {problem}")
    finally:
        os.chdir(before)


def request(random: Random, number: int, tx: int) -> Message:
    operation = random.choice(OPERATIONS)
    # For an invalid path, UNWATCH returns EINVAL in the Xen that we follow, as all others do.
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


def node_request(random: Random, number: int, tx: int) -> Message:
    """A request that concerns a transaction."""
    asked = request(random, number, tx)
    while asked.type in (Op.WATCH, Op.UNWATCH):
        asked = request(random, number, tx)
    if random.random() < 0.5:
        asked = Message(Op.WRITE, number, tx, random.choice(SHARED) + b"\0")
    return asked


def comparable(messages: list[Message]) -> list[tuple[int, int, int, list[bytes]]]:
    """The messages without what each version chooses for itself: generations, the order of
    children.

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


def answer(messages: list[Message]) -> Message:
    """The only message that is not an event."""
    (found,) = [message for message in messages if message.type != Op.WATCH_EVENT]
    return found


class Pair:
    """Clients of both stores; the daemon's repeat the requests of ours."""

    def __init__(self, daemon: str, clients: int) -> None:
        store = Store()
        self.ours = [Ours(store) for _ in range(clients)]
        self.theirs = [Theirs(daemon) for _ in range(clients)]
        self.log: list[Message] = []
        # One daemon serves all seeds.
        for path in (b"/t\0", b"/local\0"):
            self.ask(0, Message(Op.RM, 1, 0, path))

    def close(self) -> None:
        for client in self.theirs:
            client.close()

    def ask(self, who: int, asked: Message) -> Message:
        """Our answer, which must equal theirs, as must everybody's events."""
        self.log.append(asked)
        found = self.ours[who].ask(asked)
        self.compare(found, self.theirs[who].ask(asked))
        return answer(found)

    def repeat(self, who: int, done: list[tuple[Message, list[Message]]]) -> None:
        """Have a client of the daemon make the requests of one of our transactions."""
        self.log += [asked for asked, _ in done]
        (start, started), *rest = done
        ours = int(answer(started).payload[:-1])
        theirs = int(answer(self.theirs[who].ask(start)).payload[:-1])
        found: list[Message] = []
        expected: list[Message] = []
        for asked, answers in rest:
            found += answers
            expected += self.theirs[who].ask(asked._replace(tx_id=theirs))
        self.compare(found, [m._replace(tx_id=ours if m.tx_id else 0) for m in expected])

    def compare(self, found: list[Message], expected: list[Message]) -> None:
        # An event follows the answer if the answer is that of a watch.
        fence = Message(Op.GET_DOMAIN_PATH, 1_000_000, 0, b"0\0")
        for ours, theirs in zip(self.ours, self.theirs, strict=True):
            found, expected = found + ours.ask(fence), expected + theirs.ask(fence)
        assert comparable(found) == comparable(expected), self.log[-20:]


@pytest.mark.parametrize(
    "command",
    [
        *[b"log\0on\0", b"log\0off\0", b"log\0", b"log\0loud\0", b"log\0on\0off\0"],
        *[b"memreport\0", b"memreport\0/no/such/folder/file\0", b"logfile\0", b"check\0now\0"],
        *[b"quota\0max\0x\0", b"quota\x007\0", b"quota\0set\0nodes\0", b"quota-soft\0x\0"],
        *[b"dance\0", b"help\0now\0", b"print\0"],
    ],
)
def test_control(daemon: str, command: bytes) -> None:
    with closing(Pair(daemon, 1)) as pair:
        pair.ask(0, Message(Op.CONTROL, 2, 0, command))


@pytest.mark.parametrize("seed", range(40))
def test_random_requests(daemon: str, seed: int) -> None:
    random, tx = Random(seed), 0
    with closing(Pair(daemon, 2)) as pair:
        for number in range(2, 150):
            if not tx and random.random() < 0.1:
                started = pair.ask(0, Message(Op.TRANSACTION_START, number, 0, b"\0"))
                tx = int(started.payload[:-1])
            elif tx and random.random() < 0.2:
                word = random.choice((b"T\0", b"T\0", b"F\0"))
                pair.ask(0, Message(Op.TRANSACTION_END, number, tx, word))
                tx = 0
            else:
                who = 0 if tx else random.randrange(2)
                pair.ask(who, request(random, number, tx))


@pytest.mark.parametrize("seed", range(40))
def test_transactions_among_each_other(daemon: str, seed: int) -> None:
    random = Random(seed)
    ends: Counter[bytes] = Counter()
    under_way: list[list[tuple[Message, list[Message]]]] = [[] for _ in range(CLIENTS)]
    with closing(Pair(daemon, CLIENTS)) as pair:
        for number in range(2, 500):
            who = random.randrange(CLIENTS)
            done = under_way[who]
            if not done and random.random() < 0.3:
                pair.ask(who, request(random, number, 0))
                continue
            asked = Message(Op.TRANSACTION_START, number, 0, b"\0")
            if done:
                tx = int(answer(done[0][1]).payload[:-1])
                asked = node_request(random, number, tx)
                if random.random() < 0.2:
                    asked = Message(Op.TRANSACTION_END, number, tx, b"T\0")
            done.append((asked, pair.ours[who].ask(asked)))
            if asked.type == Op.TRANSACTION_END:
                end = answer(done[-1][1]).payload
                ends[end] += 1
                if end == b"OK\0":
                    pair.repeat(who, done)
                done.clear()
        for path in [*PATHS, *SHARED]:
            for operation in (Op.READ, Op.DIRECTORY, Op.GET_PERMS):
                pair.ask(0, Message(operation, 1, 0, path + b"\0"))
    assert ends.keys() == {b"OK\0", b"EAGAIN\0"}
    assert min(ends.values()) >= 5
