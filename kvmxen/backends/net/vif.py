"""A network interface on the bus: its features, the frontend's choices, and its data path.

Source: xen/include/public/io/netif.h, and the nodes that Linux's drivers/net/xen-netback/xenbus.c
and xen-netfront.c read and write.
"""

from __future__ import annotations

import errno
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from construct import Construct

from kvmxen.backends.frontend import (
    EventChannel,
    FrontendError,
    FrontendNodes,
    RingPages,
    start_thread,
)
from kvmxen.backends.net.interface import Credit, Interface
from kvmxen.backends.net.link import Link
from kvmxen.backends.net.queue import MulticastFilter, NetQueue
from kvmxen.backends.peer import Peer
from kvmxen.backends.xenbus import Device, Nodes
from kvmxen.config.net import Rate
from kvmxen.kvm.layout import PAGE_SIZE
from kvmxen.ring.doorbell import Doorbell
from kvmxen.ring.shared_ring import BackRing
from kvmxen.xen.abi.netif import MAX_PACKET, RX_REQUEST, RX_RESPONSE, TX_REQUEST, TX_RESPONSE

# The default maximum of Linux's netback.
MAX_QUEUES = 8


@dataclass(frozen=True)
class Offloads:
    """The offloads that a frontend accepts; without any, packets come whole and with checksums."""

    csum: bool
    csum6: bool
    tso4: bool
    tso6: bool


class Wire(ABC):
    """The host's side of an interface: a `link` that lives as long as the device."""

    link: Link

    @abstractmethod
    def set_offloads(self, offloads: Offloads) -> None:
        """Use the offloads that the frontend accepts from now on."""

    @abstractmethod
    def close(self) -> None:
        """Release the host's resources."""


class _Connection:
    """An interface being served: its mapped rings, its event channels and its thread."""

    def __init__(self, peer: Peer, frontend: FrontendNodes, queues: int) -> None:
        self._peer = peer
        self._frontend = frontend
        self._closers: list[Callable[[], None]] = []
        self.doorbell = Doorbell()
        self._closers.append(self.doorbell.close)
        self._multicast = MulticastFilter()
        self._multicast.enabled = frontend.flag("request-multicast-control")
        self.queues: list[NetQueue] = []
        self.interface: Interface | None = None
        self._thread: threading.Thread | None = None
        try:
            for index in range(queues):
                self.queues.append(self._queue("" if queues == 1 else f"queue-{index}/"))
        except BaseException:
            self.close()
            raise

    def _queue(self, prefix: str) -> NetQueue:
        tx = self._ring(f"{prefix}tx-ring-ref", TX_REQUEST, TX_RESPONSE)
        rx = self._ring(f"{prefix}rx-ring-ref", RX_REQUEST, RX_RESPONSE)
        if self._frontend.text(f"{prefix}event-channel-tx") is not None:
            notify_tx = self._channel(f"{prefix}event-channel-tx")
            notify_rx = self._channel(f"{prefix}event-channel-rx")
        else:
            notify_tx = notify_rx = self._channel(f"{prefix}event-channel")
        return NetQueue(self._peer.grants, tx, rx, self._multicast, notify_tx, notify_rx)

    def _ring(self, key: str, request: Construct, response: Construct) -> BackRing:
        pages = RingPages(self._peer, [self._frontend.number(key, 0xFFFFFFFF)])
        self._closers.append(pages.close)
        return BackRing(pages.window, request.sizeof(), response.sizeof())

    def _channel(self, key: str) -> Callable[[], None]:
        channel = EventChannel(self._peer, self._frontend.number(key, 0xFFFFFFFF), self.doorbell)
        self._closers.append(channel.close)
        return channel.notify

    def start(self, interface: Interface, name: str) -> None:
        """Serve `interface`, which has the queues, in a thread; raises FrontendError if the
        host cannot create the thread."""
        self.interface = interface
        thread = threading.Thread(target=self._run, args=[interface], name=name, daemon=True)
        start_thread(thread)
        self._thread = thread

    def _run(self, interface: Interface) -> None:
        try:
            interface.run()
        except BaseException as error:
            self._peer.fail(error)

    def close(self) -> None:
        """Stop serving, and return everything to the guest."""
        if self.interface and self._thread:
            self.interface.stop()
            self._thread.join()
        for close in reversed(self._closers):
            close()


class Vif(Device):
    """Network interface `index` of a guest, with the MAC address `mac`, on `wire`."""

    kind = "vif"

    def __init__(
        self, peer: Peer, index: int, wire: Wire, *, mac: str, queues: int, rate: Rate | None
    ) -> None:
        self.index = index
        self._peer = peer
        self._wire = wire
        self._mac = mac
        self._max_queues = min(queues, MAX_QUEUES)
        self._rate = rate
        self._connection: _Connection | None = None
        self._lock = threading.Lock()
        self._before: Counter[str] = Counter()

    def describe(self) -> tuple[Nodes, Nodes]:
        """See Device."""
        rate = {"rate": f"{self._rate.size},{self._rate.usec}"} if self._rate else {}
        return (
            {"handle": self.index, "mac": self._mac, "type": "vif", **rate},
            {"handle": self.index, "mac": self._mac},
        )

    def offer(self) -> Nodes:
        """See Device."""
        return {
            "feature-sg": 1,
            "feature-gso-tcpv4": 1,
            "feature-gso-tcpv6": 1,
            "feature-ipv6-csum-offload": 1,
            "feature-rx-copy": 1,
            "feature-rx-flip": 0,
            "feature-multicast-control": 1,
            "feature-split-event-channels": 1,
            "multi-queue-max-queues": self._max_queues,
        }

    def connect(self, frontend: FrontendNodes, broken: Callable[[FrontendError], None]) -> Nodes:
        """See Device."""
        if not frontend.flag("request-rx-copy"):
            raise FrontendError(errno.EOPNOTSUPP, "request-rx-copy must be 1")
        queues = frontend.number("multi-queue-num-queues", self._max_queues, 1)
        if queues == 0:
            raise FrontendError(errno.EINVAL, "multi-queue-num-queues is 0")
        csum, csum6 = (
            not frontend.flag("feature-no-csum-offload"),
            frontend.flag("feature-ipv6-csum-offload"),
        )
        sg = frontend.flag("feature-sg")
        offloads = Offloads(
            csum=csum,
            csum6=csum6,
            tso4=sg and csum and frontend.flag("feature-gso-tcpv4"),
            tso6=sg and csum6 and frontend.flag("feature-gso-tcpv6"),
        )
        connection = _Connection(self._peer, frontend, queues)
        try:
            self._wire.set_offloads(offloads)
            interface = Interface(
                self._wire.link,
                connection.queues,
                Credit(self._rate.size, self._rate.usec * 1000) if self._rate else Credit(0, 1),
                connection.doorbell,
                lambda: broken(FrontendError(errno.EIO, "a ring is broken")),
            )
            # Without scatter-gather a packet has one buffer.
            interface.longest = MAX_PACKET if sg else PAGE_SIZE
            connection.start(interface, f"vif{self.index}")
        except BaseException:
            connection.close()
            raise
        with self._lock:
            self._connection = connection
        return {}

    def disconnect(self) -> None:
        """See Device."""
        with self._lock:
            connection, self._connection = self._connection, None
            assert connection
            connection.close()
            assert connection.interface
            self._before.update(connection.interface.figures())

    def close(self) -> None:
        """See Device."""
        self._wire.close()

    def figures(self) -> dict[str, int]:
        """Packets and bytes as the guest counts them, and the costs of event channels and
        polling."""
        with self._lock:
            total = self._before.copy()
            if self._connection and self._connection.interface:
                total.update(self._connection.interface.figures())
        return dict(total)
