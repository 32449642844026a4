"""The server as its clients see it: any number of them, slow, broken, or gone."""

from __future__ import annotations

import os
import resource
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from itertools import pairwise
from pathlib import Path

import pytest

from kvmxen.errors import KvmxenError
from kvmxen.xen.abi.xs_wire import PAYLOAD_MAX, Operation
from kvmxen.xenstore.permissions import DOM0
from kvmxen.xenstore.server import server as server_module
from kvmxen.xenstore.server.client import Client
from kvmxen.xenstore.server.listener import connect, may_connect
from kvmxen.xenstore.store import Store
from kvmxen.xenstore.wire import Message
from tests.unit.xenstore.server.conftest import HELD, NAME, PATIENCE, Raw

Clients = Callable[[], Raw]
REQUESTS = 2000
DESCRIPTORS = 256


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """This process, which is the server's and its clients', may open DESCRIPTORS files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_requests_are_answered(raw: Clients, store: Store) -> None:
    client = raw()
    assert client.ask(Operation.WRITE, b"/a/b\0value") == b"OK\0"
    assert store.read("/a/b") == b"value"
    assert client.ask(Operation.READ, b"/a/b\0") == b"value"
    client.send(Operation.READ, b"/none\0", number=9)
    assert client.next() == Message(Operation.ERROR, 9, 0, b"ENOENT\0")


def test_clients_are_privileged(raw: Clients, store: Store) -> None:
    store.write("/mine", b"x")
    assert raw().ask(Operation.SET_PERMS, b"/mine\0n7\0") == b"OK\0"
    assert raw().ask(Operation.READ, b"/mine\0") == b"x"


def test_any_fragmentation(raw: Clients) -> None:
    client = raw()
    request = Message(Operation.WRITE, 1, 0, b"/a\0" + b"v" * 40).encode()
    for byte in request:
        client.socket.sendall(bytes([byte]))
    assert client.next().payload == b"OK\0"
    read = Message(Operation.READ, 2, 0, b"/a\0").encode()
    stream = read * 500
    cuts = [*range(0, len(stream), 977), len(stream)]
    for start, end in pairwise(cuts):
        client.socket.sendall(stream[start:end])
    assert [client.next().payload for _ in range(500)] == [b"v" * 40] * 500


def test_a_change_is_an_event_to_others(raw: Clients, store: Store) -> None:
    watcher, writer = raw(), raw()
    watcher.ask(Operation.WATCH, b"/a\0token\0")
    assert watcher.next().payload == b"/a\0token\0"
    writer.ask(Operation.WRITE, b"/a/b\0")
    assert watcher.next() == Message(Operation.WATCH_EVENT, 0, 0, b"/a/b\0token\0")
    # A change by this process, in a thread other than the server's.
    store.write("/a/c", b"")
    assert watcher.next().payload == b"/a/c\0token\0"


def test_a_client_that_leaves_takes_its_watches_along(raw: Clients, store: Store) -> None:
    leaver, other = raw(), raw()
    leaver.ask(Operation.WATCH, b"/a\0token\0")
    leaver.socket.close()
    assert other.ask(Operation.WRITE, b"/a\0") == b"OK\0"
    wait_until(lambda: store.state.domain(DOM0).watches == 0)


def test_nonsense_ends_that_connection_alone(raw: Clients) -> None:
    fool, other = raw(), raw()
    fool.socket.sendall(struct.pack("<4I", Operation.READ, 1, 0, PAYLOAD_MAX + 1))
    assert fool.is_closed()
    assert other.ask(Operation.WRITE, b"/a\0") == b"OK\0"


def test_many_clients_at_once(raw: Clients) -> None:
    clients = [raw() for _ in range(100)]
    for number, client in enumerate(clients):
        client.send(Operation.WRITE, b"/n/%d\0%d" % (number, number))
    assert all(client.next().payload == b"OK\0" for client in clients)
    for number, client in enumerate(reversed(clients)):
        assert client.ask(Operation.READ, b"/n/%d\0" % number) == b"%d" % number


def test_one_client_more_than_there_are_descriptors_for_is_told(
    raw: Clients, root: Path, few_descriptors: None
) -> None:
    clients = [raw()]
    clients[0].ask(Operation.WRITE, b"/a\0x")
    while True:
        clients.append(raw())
        # It may be closed already.
        with suppress(BrokenPipeError):
            clients[-1].send(Operation.READ, b"/a\0")
        answer = clients[-1].next()
        if answer.type == Operation.ERROR:
            break
        assert answer.payload == b"x"
    assert answer == Message(Operation.ERROR, 0, 0, b"EBUSY\0")
    assert clients.pop().is_closed()
    # The domain still has descriptors.
    spare = [os.open(os.devnull, os.O_RDONLY) for _ in range(DESCRIPTORS // 4)]
    for descriptor in spare:
        os.close(descriptor)
    refused = Client(root, NAME)
    with pytest.raises(KvmxenError, match="the xenstore of web has too many clients"):
        refused.read("/a")
    refused.close()
    for client in clients:
        assert client.ask(Operation.READ, b"/a\0") == b"x"
    for client in clients[1:]:
        client.socket.close()
    wait_until(lambda: is_served(root))


def test_who_leaves_before_it_is_refused(
    raw: Clients, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = raw()
    client.ask(Operation.WRITE, b"/a\0")
    monkeypatch.setattr(server_module, "_descriptors", lambda: 0)
    with connect(path) as gone:
        gone.shutdown(socket.SHUT_RDWR)
    for _ in range(100):
        connect(path).close()
    # The server continues; the fixture would report its errors.
    assert client.ask(Operation.READ, b"/a\0") == b""


def test_who_does_not_read_replies_is_not_read_from(raw: Clients, store: Store) -> None:
    store.write("/big", b"v" * 4000)
    client, other = raw(), raw()
    requests = Message(Operation.READ, 1, 0, b"/big\0").encode() * REQUESTS
    # If all were answered at once, the replies would exceed the limit of a client.
    assert REQUESTS * 4000 > 4 * HELD
    sender = threading.Thread(target=client.socket.sendall, args=(requests,))
    sender.start()
    for _ in range(100):
        other.ask(Operation.READ, b"/big\0")
    assert [client.next().payload for _ in range(REQUESTS)] == [b"v" * 4000] * REQUESTS
    sender.join()


def test_a_watcher_that_never_reads_is_let_go(raw: Clients, store: Store) -> None:
    sleeper, other = raw(), raw()
    sleeper.ask(Operation.WATCH, b"/a\0" + b"t" * 1000 + b"\0")
    number = 0
    end = time.monotonic() + PATIENCE
    while not hung_up(sleeper.socket):
        assert time.monotonic() < end, "the server holds events without end"
        other.ask(Operation.WRITE, b"/a/%d\0" % number)
        number += 1
    # It had at least enough time to pile up the maximum.
    assert number * 1000 > HELD
    assert other.ask(Operation.READ, b"/a/0\0") == b""


def test_events_in_moderation_wait_for_their_reader(raw: Clients) -> None:
    watcher, writer = raw(), raw()
    watcher.ask(Operation.WATCH, b"/a\0t\0")
    for number in range(500):
        writer.ask(Operation.WRITE, b"/a/%d\0" % number)
    paths = [watcher.next().payload for _ in range(501)]
    assert paths == [b"/a\0t\0", *(b"/a/%d\0t\0" % number for number in range(500))]


def test_threads_of_this_process_and_clients_take_turns(raw: Clients, store: Store) -> None:
    client = raw()
    client.ask(Operation.WATCH, b"/t\0t\0")

    def write(who: int) -> None:
        for number in range(100):
            store.write(f"/t/{who}/{number}", b"")

    threads = [threading.Thread(target=write, args=(who,)) for who in range(3)]
    for thread in threads:
        thread.start()
    seen = {client.next().payload for _ in range(301)}
    for thread in threads:
        thread.join()
    assert seen == {b"/t\0t\0"} | {
        b"/t/%d/%d\0t\0" % (who, number) for who in range(3) for number in range(100)
    }


def test_strangers_are_turned_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "may_connect", lambda _: False)
    stranger = Raw(path)
    with stranger.socket:
        assert stranger.is_closed()


@pytest.mark.parametrize(("uid", "welcome"), [(0, True), (1000, True), (1001, False)])
def test_who_may_connect(uid: int, welcome: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Peer:
        def getsockopt(self, level: int, option: int, size: int) -> bytes:
            assert (level, option) == (socket.SOL_SOCKET, socket.SO_PEERCRED)
            return struct.pack("iII", 4711, uid, 100)

    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert may_connect(Peer()) is welcome  # type: ignore[arg-type]


def test_the_socket_is_its_owners_alone(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_fault_of_ours_is_told(
    raw: Clients, store: Store, failures: list[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(store, "connect", fail)
    raw()
    wait_until(lambda: bool(failures))
    assert isinstance(failures.pop(), ZeroDivisionError)


def hung_up(connected: socket.socket) -> bool:
    """Whether the other end is closed, even if there is still something to read."""
    poll = select.poll()
    poll.register(connected, 0)
    return bool(poll.poll(0))


def is_served(root: Path) -> bool:
    with closing(Client(root, NAME)) as client:
        try:
            return client.read("/a") == b"x"
        except KvmxenError:
            return False


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
