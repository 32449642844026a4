"""Messages to clients, some of which do not read."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from kvmxen.front.libvirt import outbox as module
from kvmxen.front.libvirt.outbox import Outbox

ROOM = 1 << 20


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Outbox, socket.socket, list[str]]]:
    """An outbox with room for a MiB, the client's end, and whether it was hung up."""
    monkeypatch.setattr(module, "_ROOM", ROOM)
    ours, theirs = socket.socketpair()
    hung_up: list[str] = []

    def hang_up() -> None:
        hung_up.append("yes")
        ours.shutdown(socket.SHUT_RDWR)

    outbox = Outbox(ours.fileno(), hang_up)
    theirs.settimeout(60)
    yield outbox, theirs, hung_up
    outbox.close()
    theirs.close()
    ours.close()


Pair = tuple[Outbox, socket.socket, list[str]]


def test_what_is_put_in_arrives_in_order(pair: Pair) -> None:
    outbox, client, _ = pair
    for number in range(100):
        outbox.put(b"%04d" % number)
    received = b""
    while len(received) < 400:
        received += client.recv(4096)
    assert received == b"".join(b"%04d" % number for number in range(100))


def test_events_for_one_that_does_not_read_end_its_connection(pair: Pair) -> None:
    outbox, client, hung_up = pair
    for _ in range(4 * ROOM // 4096):
        outbox.put_or_hang_up(bytes(4096))
    assert hung_up == ["yes"]
    with pytest.raises(BrokenPipeError):
        outbox.put(b"late")
    while client.recv(1 << 20):
        pass


def test_answers_wait_until_there_is_room(pair: Pair) -> None:
    outbox, client, hung_up = pair
    total = 4 * ROOM

    def put() -> None:
        for _ in range(total // 4096):
            outbox.put(bytes(4096))

    thread = threading.Thread(target=put)
    thread.start()
    received = 0
    while received < total:
        received += len(client.recv(1 << 20))
    thread.join(60)
    assert hung_up == []


def test_after_the_client_has_gone_it_says_so(pair: Pair) -> None:
    outbox, client, _ = pair
    client.close()

    def put() -> None:
        for _ in range(1000):
            outbox.put(bytes(4096))

    with pytest.raises(BrokenPipeError):
        put()
