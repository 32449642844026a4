"""The control socket: both ends, the commands behind it, and those who do not keep to the rules."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmxen.abi.xenbus import XenbusState as State
from kvmxen.backends.xenbus import Xenbus
from kvmxen.config import Config, DiskSpec
from kvmxen.control import hotplug
from kvmxen.control.client import ask
from kvmxen.control.hotplug import Hotplug
from kvmxen.control.protocol import (
    MAX_REQUEST,
    SOCKET,
    ProtocolError,
    parse_reply,
    parse_request,
)
from kvmxen.control.server import ControlServer
from kvmxen.errors import KvmxenError
from kvmxen.xenstored.listener import connect
from tests.unit.backends.guest import FakeDomain, wait_until


@pytest.fixture
def failures() -> list[BaseException]:
    return []


@pytest.fixture
def folder(tmp_path: Path, failures: list[BaseException]) -> Iterator[Path]:
    """The run directory of the domain "one", which knows a few commands."""

    def fault(*_: str) -> None:
        raise RuntimeError("ours")

    def refuse(*_: str) -> None:
        raise KvmxenError("it cannot be; do something else")

    commands = {"echo": lambda *args: list(args), "refuse": refuse, "fault": fault}
    path = tmp_path / "one"
    path.mkdir()
    with ControlServer(path, commands, failures.append):
        yield path
    assert not (path / SOCKET).exists()


def send(folder: Path, data: bytes) -> dict[str, Any] | None:
    """What comes back for `data` and its end."""
    with connect(folder / SOCKET) as connected:
        connected.settimeout(120)
        connected.sendall(data)
        connected.shutdown(socket.SHUT_WR)
        reply = b"".join(iter(lambda: connected.recv(4096), b""))
    return json.loads(reply) if reply else None


def test_ask(folder: Path) -> None:
    assert ask(folder.parent, "one", "echo", "a", "\N{SNOWMAN}") == ["a", "\N{SNOWMAN}"]
    with pytest.raises(KvmxenError, match="it cannot be; do something else"):
        ask(folder.parent, "one", "refuse")
    with pytest.raises(KvmxenError, match="knows no dance"):
        ask(folder.parent, "one", "dance")


def test_a_fault_of_ours(folder: Path, failures: list[BaseException]) -> None:
    with pytest.raises(KvmxenError, match="ended before it answered"):
        ask(folder.parent, "one", "fault")
    wait_until(lambda: [str(error) for error in failures] == ["ours"])


@pytest.mark.parametrize("name", ["two", "one/nothing"])
def test_no_such_domain(folder: Path, name: str) -> None:
    with pytest.raises(KvmxenError, match="no domain named"):
        ask(folder.parent, name, "echo")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"{}\n",
        b"[]\n",
        b"not JSON\n",
        b"[" * 8000 + b"\n",
        b'{"command": "echo", "arguments": []}',
        b'{"command": "echo", "arguments": [1]}\n',
        b'{"command": "echo", "arguments": ["a", "a", "a", "a", "a", "a", "a", "a", "a"]}\n',
        b'{"command": "echo", "arguments": [], "more": 1}\n',
        b'{"command": ["echo"], "arguments": []}\n',
        b"x" * MAX_REQUEST,
        b"\xff\xfe\n",
    ],
)
def test_what_is_no_request(folder: Path, failures: list[BaseException], data: bytes) -> None:
    reply = send(folder, data)
    assert reply is not None
    assert set(reply) == {"error"}
    assert failures == []
    assert ask(folder.parent, "one", "echo") == []


def test_those_who_say_nothing_hold_up_nobody(folder: Path) -> None:
    with connect(folder / SOCKET), connect(folder / SOCKET):
        assert ask(folder.parent, "one", "echo", "b") == ["b"]


def test_the_socket_is_its_owners(folder: Path) -> None:
    assert (folder / SOCKET).stat().st_mode & 0o777 == 0o600


def test_another_users_process_is_not_heard(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvmxen.control.server.may_connect", lambda _: False)
    with pytest.raises(KvmxenError, match="ended before"):
        ask(folder.parent, "one", "echo")


@given(st.binary(max_size=60))
def test_any_bytes(data: bytes) -> None:
    for parse in (parse_request, parse_reply):
        with suppress(ProtocolError, KvmxenError):
            parse(data)


# What the commands do.


@pytest.fixture
def domain() -> FakeDomain:
    return FakeDomain()


@pytest.fixture
def plug(domain: FakeDomain, tmp_path: Path) -> Iterator[Hotplug]:
    os.truncate(_touch(tmp_path / "first"), 1 << 20)
    os.truncate(_touch(tmp_path / "second"), 1 << 20)
    config = Config(name="one", disks=(DiskSpec.parse(str(tmp_path / "first")),))
    with Xenbus(domain.guest) as bus:
        plug = Hotplug(domain.guest, bus, config)
        plug.start()
        yield plug
    assert domain.failures == []


def _touch(path: Path) -> Path:
    path.touch()
    return path


def test_a_disk_comes_and_goes(domain: FakeDomain, plug: Hotplug, tmp_path: Path) -> None:
    commands = plug.commands()
    assert set(commands["figures"]()) == {"vbd/51712"}
    assert commands["block-attach"](f"{tmp_path / 'second'},ro") == "xvdb"
    front = "/local/domain/1/device/vbd/51728"
    assert domain.state(front) is State.INITIALISING
    with pytest.raises(KvmxenError, match="in use"):
        commands["block-attach"](str(tmp_path / "first"))
    with pytest.raises(KvmxenError, match="two disks are xvda"):
        commands["block-attach"](f"{tmp_path / 'second'},ro,target=xvda")
    # The frontend lets go when it sees that it should.
    back = "/local/domain/0/backend/vbd/1/51728"

    def let_go(_path: str) -> None:
        if domain.state(back) is State.CLOSING and domain.state(front) is not State.CLOSED:
            threading.Thread(target=domain.set, args=(f"{front}/state", 6)).start()

    domain.store.watch(f"{back}/state", let_go)
    assert commands["block-detach"]("xvdb") is True
    assert set(commands["figures"]()) == {"vbd/51712"}
    assert commands["block-attach"](str(tmp_path / "second")) == "xvdb"


def test_a_disk_that_is_used(
    plug: Hotplug, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hotplug, "DETACH_S", 0.0)
    assert plug.detach_disk("xvda") is False
    assert plug.detach_disk("xvda", "force") is True
    with pytest.raises(KvmxenError, match="no vbd 51712"):
        plug.detach_disk("xvda")
    # It is unlocked.
    assert plug.attach_disk(str(tmp_path / "first")) == "xvda"


@pytest.mark.parametrize(
    ("command", "argument", "complaint"),
    [
        ("block-attach", "/nowhere/at/all", "cannot be opened"),
        ("block-attach", "/", "cannot be opened|neither a file"),
        ("block-attach", "a,b,c", "what is 'b'"),
        ("block-detach", "eth0", "cannot name a disk"),
        ("block-detach", "xvdz", "no vbd"),
        ("network-attach", "none", "nothing to attach"),
        ("network-attach", "mesh", "mesh"),
        ("network-detach", "-1", "no interface's number"),
        ("network-detach", "0", "no vif 0"),
    ],
)
def test_what_is_asked_wrongly(plug: Hotplug, command: str, argument: str, complaint: str) -> None:
    with pytest.raises(KvmxenError, match=complaint):
        plug.commands()[command](argument)
