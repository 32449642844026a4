"""The control socket: both ends, the commands behind it, and clients that break the rules."""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmxen.backends.xenbus import Xenbus
from kvmxen.config import Config, DiskSpec
from kvmxen.config.net import Forward, NetSpec, Rate
from kvmxen.domain import devices
from kvmxen.domain.control.client import ask
from kvmxen.domain.control.commands import DeviceRequest, perform_on_devices
from kvmxen.domain.control.protocol import (
    MAX_DESCRIPTORS,
    MAX_REQUEST,
    SOCKET,
    ProtocolError,
    parse,
    parse_reply,
)
from kvmxen.domain.control.requests import (
    COMMANDS,
    BlockAttach,
    BlockDetach,
    BlockResize,
    Console,
    Describe,
    Destroy,
    Events,
    Figures,
    NetworkAttach,
    NetworkDetach,
    Nmi,
    Pause,
    Reboot,
    Request,
    RequestError,
    Shutdown,
    Start,
    Stats,
    Sysrq,
    Unpause,
    Wait,
    pack,
    unpack,
)
from kvmxen.domain.control.server import ControlServer
from kvmxen.domain.devices import Devices
from kvmxen.errors import KvmxenError
from kvmxen.xen.abi.xenbus import XenbusState as State
from kvmxen.xenstore.server.listener import connect
from tests.unit.backends.fake_domain import FakeDomain


@pytest.fixture
def asked() -> list[Request]:
    return []


@pytest.fixture
def folder(tmp_path: Path, asked: list[Request]) -> Iterator[Path]:
    """The run directory of the domain "one", whose server performs one request, refuses one,
    and fails in one."""

    def do(request: Request, sockets: list[socket.socket]) -> object:
        asked.append(request)
        match request:
            case BlockAttach():
                raise KvmxenError("it cannot be; do something else")
            case BlockDetach("xvdb"):
                raise OSError(errno.EINVAL, "odd")
            case BlockDetach("xvdd"):
                raise OSError(errno.EMFILE, "too many")
            case BlockDetach():
                raise RuntimeError("ours")
            case Console():
                connected = sockets.pop()
                connected.sendall(b"hello")
                connected.close()
        return "done"

    path = tmp_path / "one"
    path.mkdir()
    with ControlServer(path, do):
        yield path
    assert not (path / SOCKET).exists()


def send(folder: Path, data: bytes) -> dict[str, Any] | None:
    """The reply to `data` followed by its end."""
    with connect(folder / SOCKET) as connected:
        connected.settimeout(120)
        connected.sendall(data)
        connected.shutdown(socket.SHUT_WR)
        reply = b"".join(iter(lambda: connected.recv(4096), b""))
    return json.loads(reply) if reply else None


DISK = DiskSpec.parse("/a,ro")


def test_ask(folder: Path, asked: list[Request]) -> None:
    assert ask(folder.parent, "one", Figures()) == "done"
    with pytest.raises(KvmxenError, match="it cannot be; do something else"):
        ask(folder.parent, "one", BlockAttach(DISK))
    assert asked == [Figures(), BlockAttach(DISK)]


@pytest.mark.parametrize("device", ["xvdb", "xvdc"])
def test_a_fault_of_ours_goes_to_the_client_and_ends_nothing(
    folder: Path, device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KvmxenError, match=r"internal error: .*; please report it"):
        ask(folder.parent, "one", BlockDetach(device))
    assert ask(folder.parent, "one", Figures()) == "done"
    assert "a request failed by an internal error" in capsys.readouterr().err


def test_what_the_host_lacks_is_no_fault_of_ours(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KvmxenError, match=r"^this process cannot open more files"):
        ask(folder.parent, "one", BlockDetach("xvdd"))
    assert capsys.readouterr().err == ""


def test_a_client_waits_for_a_descriptor(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accept = socket.socket.accept
    events: list[str] = []

    def short(listener: socket.socket) -> tuple[socket.socket, Any]:
        events.append("accept")
        if events.count("accept") < 3:
            raise OSError(errno.EMFILE, "too many")
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", short)
    monkeypatch.setattr("kvmxen.domain.control.server._RETRY_S", 0.0)
    monkeypatch.setattr(select, "select", lambda *_: events.append("pause"))
    assert ask(folder.parent, "one", Figures()) == "done"
    # It does not retry continuously meanwhile.
    assert events == ["accept", "pause", "accept", "pause", "accept"]


def test_a_client_without_a_thread_is_let_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none_left)
        for _ in range(20):
            with connect(folder / SOCKET) as connected:
                connected.settimeout(120)
                assert connected.recv(1) == b""
    assert ask(folder.parent, "one", Figures()) == "done"


@pytest.mark.parametrize("name", ["two", "one/nothing"])
def test_no_such_domain(folder: Path, name: str) -> None:
    with pytest.raises(KvmxenError, match="no domain named"):
        ask(folder.parent, name, Figures())


def test_a_socket_goes_with_a_request(folder: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ask(folder.parent, "one", Console(), descriptors=[theirs.fileno()])
        assert ours.recv(5) == b"hello"


@pytest.mark.parametrize("count", [0, 2, MAX_DESCRIPTORS, MAX_DESCRIPTORS + 9])
def test_more_or_fewer_sockets_are_refused_and_closed(folder: Path, count: int) -> None:
    pairs = [socket.socketpair() for _ in range(count)]
    descriptors = [theirs.fileno() for _, theirs in pairs]
    with pytest.raises(KvmxenError, match="too many or too few descriptors"):
        ask(folder.parent, "one", Console(), descriptors=descriptors)
    for ours, theirs in pairs:
        theirs.close()
        assert ours.recv(1) == b""
        ours.close()


def test_what_is_no_socket_is_refused(folder: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, (folder / "file").open("w") as file:
        descriptors = [theirs.fileno(), file.fileno(), file.fileno()]
        with pytest.raises(KvmxenError, match="not a socket"):
            ask(folder.parent, "one", Console(), descriptors=descriptors)
        theirs.close()
        assert ours.recv(1) == b""


def test_a_client_need_not_wait_forever(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvmxen.domain.control.server.write_line", lambda *_: time.sleep(0.5))
    with pytest.raises(KvmxenError, match="the domain one does not answer"):
        ask(folder.parent, "one", Figures(), patience=0.05)


def line(command: object, arguments: object, **more: object) -> bytes:
    return json.dumps({"command": command, "arguments": arguments, **more}).encode() + b"\n"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"{}\n",
        b"[]\n",
        b"not JSON\n",
        b"[" * 8000 + b"\n",
        b'{"command": "figures", "arguments": {}}',
        line("figures", []),
        line("figures", {"more": 1}),
        line("figures", {}, more=1),
        line("dance", {}),
        line(["figures"], {}),
        line("block-attach", {}),
        line("block-attach", {"disk": "/tmp/a"}),
        line("block-attach", {"disk": {"path": "a"}}),
        line("block-attach", {"disk": {"path": "/a%00b"}}),
        line("block-attach", {"disk": {"path": "/a\0b"}}),
        line("block-attach", {"disk": {"path": "/\ud800x"}}),
        line("block-attach", {"disk": {"path": "/a", "target": "eth0"}}),
        line("block-attach", {"disk": {"path": "/a", "readonly": 1}}),
        line("block-attach", {"disk": {"path": "/a", "format": "raw2"}}),
        line("block-attach", {"disk": {"path": "/a", "sector_size": True}}),
        line("block-attach", {"disk": {"path": "/a", "sector_size": 0}}),
        line("block-attach", {"disk": {"path": "/a", "format": "qcow2", "backing": ["b"]}}),
        line("block-attach", {"disk": {"path": "/a", "key": "/b"}}),
        line("block-attach", {"disk": {"path": "/a", "of_the_future": 1}}),
        line("block-detach", {"device": "xvda", "force": "\u0664"}),
        line("network-attach", {"net": {"kind": "tap", "bridge": "a b"}}),
        line("network-attach", {"net": {"kind": "user", "mac": "01:00:00:00:00:00"}}),
        line("network-attach", {"net": {"kind": "user", "rate": {"size": 0, "usec": 1}}}),
        line("network-detach", {"number": "\u0663"}),
        line("network-detach", {"number": True}),
        line("network-detach", {"number": 1.0}),
        line("wait", {"seconds": "1"}),
        line("wait", {"seconds": True}),
        line("wait", {"seconds": -1}),
        line("wait", {"seconds": float("nan")}),
        line("wait", {"seconds": -(10**400)}),
        b"x" * MAX_REQUEST,
        b"\xff\xfe\n",
    ],
)
def test_what_is_no_request(folder: Path, asked: list[Request], data: bytes) -> None:
    reply = send(folder, data)
    assert reply is not None
    assert set(reply) == {"error"}
    assert "internal error" not in reply["error"]
    assert asked == []


def test_a_request_of_any_depth_is_refused(
    folder: Path, asked: list[Request], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nesting just below the limit of JSON's reader may be too deep for the code that uses the
    value."""
    for depth in range(sys.getrecursionlimit() - 150, sys.getrecursionlimit()):
        disk = '{"path":' * depth + "1" + "}" * depth
        data = f'{{"command": "block-attach", "arguments": {{"disk": {disk}}}}}\n'.encode()
        with connect(folder / SOCKET) as client:
            client.sendall(data)
            reply = json.loads(client.makefile().readline())
        assert list(reply) == ["error"]
    assert not asked
    assert capsys.readouterr().err == ""


def test_a_request_that_is_one(folder: Path, asked: list[Request]) -> None:
    """A valid request, for comparison with the lines above."""
    data = line("network-attach", {"net": {"kind": "tap", "rate": {"size": 9, "usec": 1}}})
    assert send(folder, data) == {"done": "done"}
    assert asked == [NetworkAttach(NetSpec("tap", rate=Rate(9, 1)))]


@pytest.mark.parametrize(
    "request_",
    [
        BlockAttach(DiskSpec.parse("/a/b%20 c,qcow2,xvdc,ro,sector-size=4096,no-discard")),
        BlockAttach(DiskSpec.parse("/a,qcow2,backing=/b,backing=/c,key=/d")),
        BlockAttach(DiskSpec.parse("/a,qcow2,backing=allow")),
        BlockResize("xvda"),
        BlockAttach(DiskSpec(path=Path(os.fsdecode(b"/\xff/\xc3\xa9")))),
        BlockDetach("xvdb", force=True),
        NetworkAttach(NetSpec("tap", "tap0", "br0", "00:16:3e:00:00:01", Rate(1, 2))),
        NetworkAttach(NetSpec("user", forwards=(Forward("udp", "::1", 1, 2),) * 2)),
        NetworkDetach(7),
        Figures(),
        Start(),
        Start(paused=True),
        Sysrq("h"),
        Nmi(),
        Pause(),
        Unpause(),
        Shutdown(),
        Reboot(),
        Destroy(),
        Wait(0.5),
        Wait(10),
        Describe(),
        Console(),
        Console(writes=False, force=True),
        Events(),
        Stats(),
    ],
)
def test_requests_arrive_as_they_were(request_: Request) -> None:
    assert unpack(json.loads(json.dumps(pack(request_)))) == request_


def test_every_request_is_sent_above() -> None:
    marks = test_requests_arrive_as_they_were.pytestmark  # type: ignore[attr-defined]
    assert {type(request) for request in marks[0].args[1]} == set(COMMANDS.values())


def test_paths_are_the_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    request = BlockAttach(DiskSpec.parse("disk.img"))
    assert unpack(pack(request)) == BlockAttach(DiskSpec(path=tmp_path / "disk.img"))
    request = BlockAttach(DiskSpec.parse("disk.img,qcow2,backing=a,key=b"))
    unpacked = unpack(pack(request))
    assert isinstance(unpacked, BlockAttach)
    assert (unpacked.disk.backing, unpacked.disk.key) == ((tmp_path / "a",), tmp_path / "b")


def test_those_who_say_nothing_hold_up_nobody(folder: Path) -> None:
    with connect(folder / SOCKET), connect(folder / SOCKET):
        assert ask(folder.parent, "one", Figures()) == "done"


def test_the_socket_is_its_owners(folder: Path) -> None:
    assert (folder / SOCKET).stat().st_mode & 0o777 == 0o600


def test_another_users_process_is_not_heard(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvmxen.domain.control.server.may_connect", lambda _: False)
    with pytest.raises(KvmxenError, match="ended before"):
        ask(folder.parent, "one", Figures())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
)


@given(st.binary(max_size=60))
def test_any_bytes(data: bytes) -> None:
    for use in (lambda: unpack(parse(data)), lambda: parse_reply(data)):
        with suppress(ProtocolError, RequestError, KvmxenError):
            use()


@given(st.sampled_from(sorted(COMMANDS)), st.data())
def test_any_arguments(command: str, data: st.DataObject) -> None:
    """Arguments with the right names and of any kind: an answer, never another exception."""
    names = [field.name for field in fields(COMMANDS[command])]
    within = [field.name for kind in (DiskSpec, NetSpec, Rate) for field in fields(kind)]
    nested = JSON | st.dictionaries(st.sampled_from(within), JSON | st.just("/a"))
    arguments = data.draw(st.fixed_dictionaries(dict.fromkeys(names, nested)) | JSON)
    with suppress(RequestError, KvmxenError):
        unpack({"command": command, "arguments": arguments})


# The effects of the commands.


@pytest.fixture
def domain() -> FakeDomain:
    return FakeDomain()


@pytest.fixture
def plug(domain: FakeDomain, tmp_path: Path) -> Iterator[Devices]:
    os.truncate(_touch(tmp_path / "first"), 1 << 20)
    os.truncate(_touch(tmp_path / "second"), 1 << 20)
    disks = (DiskSpec.parse(str(tmp_path / "first")),)
    config = Config(name="one", kernel=tmp_path / "vmlinuz", disks=disks)
    with Xenbus(domain.peer) as bus:
        plug = Devices(domain.peer, bus, config)
        plug.attach_first()
        yield plug
    assert domain.failures == []


def _touch(path: Path) -> Path:
    path.touch()
    return path


def attach(path: Path, options: str = "") -> BlockAttach:
    return BlockAttach(DiskSpec.parse(f"{path}{options}"))


def test_a_disk_comes_and_goes(domain: FakeDomain, plug: Devices, tmp_path: Path) -> None:
    figures = perform_on_devices(plug, Figures())
    assert isinstance(figures, dict)
    assert set(figures) == {"vbd/51712"}
    assert perform_on_devices(plug, attach(tmp_path / "second", ",ro")) == "xvdb"
    front = "/local/domain/1/device/vbd/51728"
    assert domain.state(front) is State.INITIALISING
    with pytest.raises(KvmxenError, match="in use"):
        perform_on_devices(plug, attach(tmp_path / "first"))
    with pytest.raises(KvmxenError, match="two disks are xvda"):
        perform_on_devices(plug, attach(tmp_path / "second", ",ro,target=xvda"))
    # The frontend releases the device when it sees the request.
    back = "/local/domain/0/backend/vbd/1/51728"

    def let_go(_path: str) -> None:
        if domain.state(back) is State.CLOSING and domain.state(front) is not State.CLOSED:
            threading.Thread(target=domain.set, args=(f"{front}/state", 6)).start()

    domain.store.watch(f"{back}/state", let_go)
    assert perform_on_devices(plug, BlockDetach("xvdb")) is True
    figures = perform_on_devices(plug, Figures())
    assert isinstance(figures, dict)
    assert set(figures) == {"vbd/51712"}
    assert perform_on_devices(plug, attach(tmp_path / "second")) == "xvdb"


def test_a_disk_that_is_used(
    plug: Devices, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(devices, "DETACH_S", 0.0)
    assert perform_on_devices(plug, BlockDetach("xvda")) is False
    assert perform_on_devices(plug, BlockDetach("xvda", force=True)) is True
    with pytest.raises(KvmxenError, match="the guest has no disk xvda"):
        perform_on_devices(plug, BlockDetach("xvda"))
    # The file is unlocked.
    assert perform_on_devices(plug, attach(tmp_path / "first")) == "xvda"


def test_a_disk_grows(domain: FakeDomain, plug: Devices, tmp_path: Path) -> None:
    sectors = "/local/domain/0/backend/vbd/1/51712/sectors"
    assert domain.read(sectors) == str(1 << 11)
    with (tmp_path / "first").open("r+b") as file:
        file.truncate(3 << 20)
    assert perform_on_devices(plug, BlockResize("xvda")) is None
    assert domain.read(sectors) == str(3 << 11)
    perform_on_devices(plug, BlockDetach("xvda", force=True))
    with pytest.raises(KvmxenError, match="the guest has no disk xvda"):
        perform_on_devices(plug, BlockResize("xvda"))


def test_disks_attached_at_once_are_different_ones(plug: Devices, tmp_path: Path) -> None:
    images = [_touch(tmp_path / f"image{n}") for n in range(12)]
    for image in images:
        os.truncate(image, 1 << 20)
    with ThreadPoolExecutor(len(images)) as clients:
        names = set(clients.map(lambda image: perform_on_devices(plug, attach(image)), images))
    assert names == {f"xvd{letter}" for letter in "bcdefghijklm"}


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        (attach(Path("/nowhere/at/all")), "cannot be opened"),
        (attach(Path("/")), "cannot be opened|neither a file"),
        (BlockDetach("eth0"), "cannot name a disk"),
        (BlockDetach("xvdz"), "the guest has no disk xvdz"),
        (BlockResize("eth0"), "cannot name a disk"),
        (BlockResize("xvdz"), "the guest has no disk xvdz"),
        (NetworkDetach(0), "the guest has no network interface 0"),
        (NetworkDetach(-1), "the guest has no network interface -1"),
    ],
)
def test_what_is_asked_wrongly(plug: Devices, request_: DeviceRequest, complaint: str) -> None:
    with pytest.raises(KvmxenError, match=complaint):
        perform_on_devices(plug, request_)
