"""A client's connection without a domain: every call is answered, whatever is in it."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvmxen.backends.terminal import stream_of
from kvmxen.domain.remote import RemoteDomain
from kvmxen.front.libvirt.client import Client
from kvmxen.front.libvirt.definitions import Definition, Definitions
from kvmxen.front.libvirt.host import Guest, Host
from kvmxen.front.libvirt.outbox import Outbox
from kvmxen.front.libvirt.procedures import CONSOLE, PROCEDURES
from kvmxen.front.libvirt.storage import Pools
from kvmxen.front.libvirt.wire import (
    KEEPALIVE,
    REMOTE,
    VERSION,
    Code,
    Frames,
    Kind,
    Message,
    Status,
)
from kvmxen.front.libvirt.xdr import INT, Reader

UPLOAD = 208


@pytest.fixture
def host(tmp_path: Path) -> Host:
    (tmp_path / "run").mkdir(mode=0o700)
    return Host(Definitions(tmp_path / "domains"), Pools(tmp_path / "pools"), tmp_path / "run")


class Peer:
    """The client's end."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self._frames = Frames()
        self._ready: list[Message] = []

    def send(self, message: Message) -> None:
        self.socket.sendall(message.encode())

    def receive(self) -> Message:
        while not self._ready:
            data = self.socket.recv(65536)
            assert data
            self._ready = self._frames.feed(data)
        return self._ready.pop(0)

    def call(self, procedure: int, payload: bytes = b"", *, program: int = REMOTE) -> Message:
        self.send(Message(program, VERSION, procedure, Kind.CALL, 7, Status.OK, payload=payload))
        return self.receive()


@contextmanager
def connection(host: Host) -> Iterator[tuple[Peer, Client]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    outbox = Outbox(theirs.fileno(), lambda: theirs.shutdown(socket.SHUT_RDWR))
    client = Client(host, lambda: theirs.recv(65536), outbox, lambda *_: None)

    def serve() -> None:
        client.serve()
        outbox.close()
        theirs.close()

    serving = threading.Thread(target=serve)
    serving.start()
    try:
        yield Peer(ours), client
    finally:
        ours.close()
        serving.join(60)
    assert not serving.is_alive()


def code(answer: Message) -> int:
    assert answer.status == Status.ERROR
    return int(INT.read(Reader(answer.payload)))


@pytest.mark.parametrize(("program", "procedure"), [(REMOTE, 0xFFFF), (0x20008087, 1)])
def test_what_is_unknown_is_an_error_and_the_connection_goes_on(
    host: Host, program: int, procedure: int
) -> None:
    with connection(host) as (peer, _):
        assert code(peer.call(procedure, program=program)) == Code.NO_SUPPORT
        assert peer.call(66).status == Status.OK


def test_a_failing_file_system_is_no_internal_error(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_definitions: Definitions) -> Iterator[Definition]:
        raise PermissionError(errno.EACCES, "Permission denied", "/a/folder")

    monkeypatch.setattr(Definitions, "__iter__", fail)
    with connection(host) as (peer, _):
        # The number of defined domains.
        answer = peer.call(25)
    assert code(answer) == Code.FAILED
    assert b"/a/folder: Permission denied" in answer.payload
    assert capsys.readouterr().err == ""


def test_a_ping_is_answered(host: Host) -> None:
    with connection(host) as (peer, _):
        peer.send(Message(KEEPALIVE, VERSION, 1, Kind.MESSAGE, 0, Status.OK))
        answer = peer.receive()
    assert (answer.program, answer.procedure, len(answer.encode())) == (KEEPALIVE, 2, 28)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(payload=st.binary(max_size=120))
def test_every_procedure_answers_whatever_is_in_the_call(
    host: Host, payload: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    with connection(host) as (peer, _):
        for number in PROCEDURES:
            answer = peer.call(number, payload)
            assert (answer.kind, answer.procedure, answer.serial) == (Kind.REPLY, number, 7)
            assert answer.status == Status.OK or code(answer) != Code.INTERNAL
    assert capsys.readouterr().err == ""


def test_hostile_bytes_end_the_connection_alone(host: Host) -> None:
    with connection(host) as (other, _), connection(host) as (peer, _):
        peer.socket.sendall(bytes(64))
        assert peer.socket.recv(1) == b""
        assert other.call(66).status == Status.OK


def test_a_console_that_takes_no_keys_does_not_hold_up_calls(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvmxen.front.libvirt.client._TYPING_S", 0.1)
    guest, console = socket.socketpair()
    stream = stream_of(console, writes=True)
    domain = cast(RemoteDomain, SimpleNamespace(name="web", open_console=lambda **_: stream))
    with guest, connection(host) as (peer, _):
        monkeypatch.setattr(host, "connect", lambda _: domain)
        monkeypatch.setattr(host, "by_uuid", lambda _: Guest("web", UUID(int=1), 3, None))
        opening = PROCEDURES[CONSOLE].arguments.write((("web", bytes(16), 3), None, 0))
        opened = peer.call(CONSOLE, opening)
        assert opened.status == Status.OK
        peer.send(opened.part(Status.CONTINUE, bytes(4 << 20)))
        told = peer.receive()
        assert (told.kind, told.serial) == (Kind.STREAM, opened.serial)
        assert code(told) == Code.FAILED
        assert peer.call(66).status == Status.OK


@pytest.fixture
def image(host: Host, tmp_path: Path) -> Path:
    """A volume `image` of 8 bytes in the pool `p`."""
    folder = tmp_path / "images"
    folder.mkdir()
    xml = f"<pool type='dir'><name>p</name><target><path>{folder}</path></target></pool>"
    host.pools.start(host.pools.define(xml))
    (folder / "image").write_bytes(bytes(8))
    return folder / "image"


@pytest.mark.parametrize("last", [Status.OK, Status.ERROR], ids=["finished", "aborted"])
def test_a_volume_is_filled_by_a_stream(host: Host, image: Path, last: Status) -> None:
    with connection(host) as (peer, _):
        opened = peer.call(UPLOAD, upload(2, 4))
        assert opened.status == Status.OK
        peer.send(opened.part(Status.CONTINUE, b"ab"))
        peer.send(opened.part(Status.CONTINUE, b"cd"))
        peer.send(opened.part(last))
        told = peer.receive()
        assert (told.kind, told.status, told.payload) == (Kind.STREAM, Status.OK, b"")
    assert image.read_bytes() == b"\0\0abcd\0\0"


def test_an_upload_is_no_longer_than_it_said(host: Host, image: Path) -> None:
    with connection(host) as (peer, _):
        opened = peer.call(UPLOAD, upload(0, 4))
        peer.send(opened.part(Status.CONTINUE, bytes(5)))
        assert code(peer.receive()) == Code.INVALID
        assert code(peer.call(UPLOAD, upload(1 << 63, 0))) == Code.INVALID
        assert peer.call(66).status == Status.OK


def upload(offset: int, length: int) -> bytes:
    return PROCEDURES[UPLOAD].arguments.write((("p", "image", ""), offset, length, 0))


def test_clients_that_come_and_go_leave_nothing(host: Host) -> None:
    def left() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()  # noqa: PTH208

    with connection(host) as (peer, _):
        peer.call(66)
    before = left()
    for _ in range(20):
        with connection(host) as (peer, _):
            peer.call(66)
    assert left() <= before
