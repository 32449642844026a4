"""An interface's data path between a frontend and the other end of its link, a round at a time."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from kvmxen.backends.net.interface import Credit, Interface
from kvmxen.backends.net.link import Link, StreamLink, TapLink
from kvmxen.backends.net.queue import MulticastFilter, NetQueue
from kvmxen.ring.doorbell import Doorbell
from tests.unit.backends.fake_domain import FakeDomain
from tests.unit.backends.net.frontend import NetFrontend


class Path:
    """`front` <-> `interface` <-> `peer`. `events` counts notifications, `broken` broken rings."""

    def __init__(
        self, kind: socket.SocketKind, *, start: int = 0, credit: Credit | None = None
    ) -> None:
        self.domain = FakeDomain()
        self.front = NetFrontend(self.domain, start)
        self.peer, self._ours = socket.socketpair(socket.AF_UNIX, kind)
        self.peer.setblocking(False)
        self._ours.setblocking(False)
        # The largest packet, and its segments, are sent at once.
        self._ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        stream = kind is socket.SOCK_STREAM
        self.link: Link = (StreamLink if stream else TapLink)(self._ours.fileno())
        self.multicast = MulticastFilter()
        self.doorbell = Doorbell()
        self.events = {"tx": 0, "rx": 0}
        self.broken = 0
        queue = NetQueue(
            self.domain.grants,
            self.front.tx.back(),
            self.front.rx.back(),
            self.multicast,
            lambda: self._count("tx"),
            lambda: self._count("rx"),
        )
        self.interface = Interface(
            self.link, [queue], credit or Credit(0, 1), self.doorbell, self._break
        )

    def _count(self, which: str) -> None:
        self.events[which] += 1

    def _break(self) -> None:
        self.broken += 1

    def run(self) -> None:
        """Run rounds until nothing moves any more."""
        while self.interface.round() and not self.broken:
            pass

    @property
    def figures(self) -> dict[str, int]:
        return self.interface.figures()

    def close(self) -> None:
        self.peer.close()
        self._ours.close()
        self.doorbell.close()
        # Whatever happened, none of the guest's grants stays in use.
        assert self.domain.grants.pinned() == {}

    # The other end of a stream of frames.

    def received(self) -> bytearray:
        """The bytes that came out of the link."""
        data = bytearray()
        while True:
            try:
                data += self.peer.recv(1 << 20)
            except BlockingIOError:
                # The socket had no room for this before.
                if not (self.interface.link.ended or self.interface.round()):
                    return data

    def frames(self) -> list[bytes]:
        """The frames that came out of the link."""
        data = self.received()
        found = []
        while data:
            length = int.from_bytes(data[:4], "big")
            found.append(bytes(data[4 : 4 + length]))
            del data[: 4 + length]
        return found

    def feed(self, *frames: bytes) -> None:
        """Send frames to the guest, as it has room for them."""
        data = b"".join(len(f).to_bytes(4, "big") + f for f in frames)
        while data:
            try:
                data = data[self.peer.send(data) :]
            except BlockingIOError:
                self.interface.round()


@pytest.fixture
def path() -> Iterator[Path]:
    path = Path(socket.SOCK_STREAM)
    yield path
    path.close()


@pytest.fixture
def tap() -> Iterator[Path]:
    path = Path(socket.SOCK_SEQPACKET)
    yield path
    path.close()
