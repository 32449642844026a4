"""An interface on the bus: its offers, a frontend's choices, and reconnection."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from kvmxen.backends.net.link import StreamLink
from kvmxen.backends.net.vif import Offloads, Vif, Wire
from kvmxen.backends.xenbus import Xenbus
from kvmxen.config.net import Rate
from kvmxen.xen.abi.ring import REQ_PROD
from kvmxen.xen.abi.xen import DOMID_GUEST
from kvmxen.xen.abi.xenbus import XenbusState as State
from tests.unit.backends.fake_domain import FakeDomain, wait_until
from tests.unit.backends.net.frames import tcp_frame, udp_frame
from tests.unit.backends.net.frontend import NetFrontend

BACK = f"/local/domain/0/backend/vif/{DOMID_GUEST}/0"
FRONT = f"/local/domain/{DOMID_GUEST}/device/vif/0"
ERROR = f"/local/domain/0/error/backend/vif/{DOMID_GUEST}/0/error"
MAC = "00:16:3e:01:02:03"


class Pair(Wire):
    """A wire whose other end is `peer`."""

    def __init__(self) -> None:
        self.peer, self._ours = socket.socketpair()
        self._ours.setblocking(False)
        self.peer.settimeout(120)
        self.link = StreamLink(self._ours.fileno())
        self.offloads: list[Offloads] = []
        self.closed = False

    def set_offloads(self, offloads: Offloads) -> None:
        self.offloads.append(offloads)

    def close(self) -> None:
        self.closed = True
        self._ours.close()

    def take(self) -> bytes:
        length = int.from_bytes(self.exactly(4), "big")
        return self.exactly(length)

    def exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            data += self.peer.recv(length - len(data))
        return data

    def feed(self, frame: bytes) -> None:
        self.peer.sendall(len(frame).to_bytes(4, "big") + frame)


class Guest:
    """A domain with the interface, and its driver; `connect` sets it up anew each time."""

    def __init__(self) -> None:
        self.domain = FakeDomain()
        self.wire = Pair()
        self.bus = Xenbus(self.domain.peer)
        vif = Vif(self.domain.peer, 0, self.wire, mac=MAC, queues=4, rate=Rate(1 << 30, 1_000_000))
        self.bus.attach(vif)
        self.fronts: list[NetFrontend] = []
        self.ports: list[list[int]] = []

    def become(self, theirs: State, ours: State) -> None:
        self.domain.set(f"{FRONT}/state", int(theirs))
        wait_until(lambda: self.domain.state(BACK) is ours)

    def write(self, **nodes: object) -> None:
        for key, value in nodes.items():
            self.domain.set(f"{FRONT}/{key.replace('_', '-')}", value)

    def prepare(self, queues: int = 1, split: bool = True, start: int = 0) -> None:
        """Write what a driver writes before Connected."""
        self.fronts = [NetFrontend(self.domain, start) for _ in range(queues)]
        self.ports = []
        self.write(request_rx_copy=1, feature_rx_notify=1, feature_sg=1, feature_gso_tcpv4=1)
        self.write(feature_gso_tcpv6=1, feature_ipv6_csum_offload=1)
        self.write(multi_queue_num_queues=queues)
        for index, front in enumerate(self.fronts):
            prefix = "" if queues == 1 else f"queue-{index}/"
            keys = ["event-channel-tx", "event-channel-rx"] if split else ["event-channel"]
            ports = [self.domain.events.alloc_unbound(0) for _ in keys]
            self.ports.append(ports)
            for key, port in zip(keys, ports, strict=True):
                self.write(**{prefix + key: port})
            self.write(**{f"{prefix}tx-ring-ref": front.tx.ref})
            self.write(**{f"{prefix}rx-ring-ref": front.rx.ref})

    def connect(self, queues: int = 1, split: bool = True, start: int = 0) -> None:
        self.prepare(queues, split, start)
        self.become(State.CONNECTED, State.CONNECTED)

    def send(self, data: bytes, queue: int = 0) -> None:
        self.fronts[queue].send(data)
        self.domain.events.send(self.ports[queue][0])

    def post(self, count: int, queue: int = 0) -> None:
        self.fronts[queue].post(count)
        self.domain.events.send(self.ports[queue][-1])

    def receive(self, queue: int = 0) -> bytes:
        got: list[bytes] = []

        def one_is_there() -> bool:
            got.extend(data for data, _, _ in self.fronts[queue].receive())
            return bool(got)

        wait_until(one_is_there)
        [data] = got
        return data


@pytest.fixture
def guest() -> Iterator[Guest]:
    guest = Guest()
    yield guest
    guest.bus.close()
    guest.wire.peer.close()
    assert guest.wire.closed
    assert guest.domain.failures == []
    assert guest.domain.grants.pinned() == {}


def test_what_is_offered(guest: Guest) -> None:
    wait_until(lambda: guest.domain.state(BACK) is State.INIT_WAIT)
    nodes = {
        "feature-sg": "1",
        "feature-gso-tcpv4": "1",
        "feature-gso-tcpv6": "1",
        "feature-ipv6-csum-offload": "1",
        "feature-rx-copy": "1",
        "feature-rx-flip": "0",
        "feature-multicast-control": "1",
        "feature-split-event-channels": "1",
        "multi-queue-max-queues": "4",
        "mac": MAC,
        "handle": "0",
        "rate": "1073741824,1000000",
    }
    assert {key: guest.domain.read(f"{BACK}/{key}") for key in nodes} == nodes
    assert guest.domain.read(f"{FRONT}/mac") == MAC
    assert guest.domain.read(f"{FRONT}/handle") == "0"


@pytest.mark.parametrize("split", [True, False])
def test_packets_both_ways(guest: Guest, split: bool) -> None:
    guest.connect(split=split)
    guest.send(b"out".ljust(60))
    assert guest.wire.take() == b"out".ljust(60)
    tx, rx = guest.ports[0][0], guest.ports[0][-1]
    wait_until(lambda: guest.domain.is_pending(tx))
    guest.post(2)
    guest.wire.feed(b"in".ljust(60))
    assert guest.receive() == b"in".ljust(60)
    wait_until(lambda: guest.domain.is_pending(rx))
    figures = guest.bus.figures()["vif/0"]
    assert (figures["tx_packets"], figures["rx_packets"]) == (1, 1)
    assert figures["notifications"] == 2


def test_queues(guest: Guest) -> None:
    guest.connect(queues=4)
    for queue in range(4):
        guest.send(bytes([queue]) * 60, queue)
        assert guest.wire.take() == bytes([queue]) * 60
        guest.post(8, queue)
    # A flow stays on its queue, and the flows use more than one queue.
    used = set()
    for make in (tcp_frame, udp_frame):
        for version in (4, 6):
            for _ in range(3):
                guest.wire.feed(make(version, b"data"))
    got: dict[int, list[bytes]] = {queue: [] for queue in range(4)}

    def all_there() -> bool:
        for queue, front in enumerate(guest.fronts):
            got[queue] += [data for data, _, _ in front.receive()]
        return sum(map(len, got.values())) == 12

    wait_until(all_there)
    for make in (tcp_frame, udp_frame):
        for version in (4, 6):
            counts = {q: frames.count(make(version, b"data")) for q, frames in got.items()}
            assert sorted(counts.values()) == [0, 0, 0, 3]
            used |= {queue for queue, count in counts.items() if count}
    assert len(used) > 1


@pytest.mark.parametrize(
    ("nodes", "offloads"),
    [
        ({}, Offloads(csum=True, csum6=True, tso4=True, tso6=True)),
        ({"feature_sg": 0}, Offloads(csum=True, csum6=True, tso4=False, tso6=False)),
        ({"feature_gso_tcpv6": 0}, Offloads(csum=True, csum6=True, tso4=True, tso6=False)),
        (
            {"feature_no_csum_offload": 1},
            Offloads(csum=False, csum6=True, tso4=False, tso6=True),
        ),
        (
            {"feature_ipv6_csum_offload": 0},
            Offloads(csum=True, csum6=False, tso4=True, tso6=False),
        ),
    ],
)
def test_offloads_are_the_frontends(
    guest: Guest, nodes: dict[str, int], offloads: Offloads
) -> None:
    guest.prepare()
    guest.write(**nodes)
    guest.become(State.CONNECTED, State.CONNECTED)
    assert guest.wire.offloads == [offloads]


def test_the_driver_is_loaded_again(guest: Guest) -> None:
    for start in (0, 100, (1 << 32) - 1):
        guest.become(State.INITIALISING, State.INIT_WAIT)
        guest.connect(start=start)
        guest.send(b"hello".ljust(60))
        assert guest.wire.take() == b"hello".ljust(60)
        guest.become(State.CLOSING, State.CLOSING)
        assert guest.domain.grants.pinned() == {}
        guest.become(State.CLOSED, State.CLOSED)
    assert guest.bus.figures()["vif/0"]["tx_packets"] == 3
    assert not guest.wire.closed


def test_a_new_kernel_without_an_end_of_the_old(guest: Guest) -> None:
    guest.connect()
    guest.become(State.INITIALISING, State.INIT_WAIT)
    guest.connect(queues=2)
    guest.send(b"again".ljust(60), 1)
    assert guest.wire.take() == b"again".ljust(60)


def test_detached(guest: Guest) -> None:
    guest.connect()
    assert not guest.bus.detach("vif", 0, timeout=0)
    wait_until(lambda: guest.domain.state(BACK) is State.CLOSING)
    guest.send(b"still".ljust(60))
    assert guest.wire.take() == b"still".ljust(60)
    guest.domain.set(f"{FRONT}/state", int(State.CLOSED))
    wait_until(lambda: guest.wire.closed)


def test_a_broken_ring_ends_the_service_only(guest: Guest) -> None:
    guest.connect()
    front = guest.fronts[0]
    front.tx.store(REQ_PROD, 1000)
    guest.domain.events.send(guest.ports[0][0])
    wait_until(lambda: guest.domain.state(BACK) is State.CLOSING)
    assert guest.domain.read(ERROR) == "-5 a ring is broken"
    guest.become(State.CLOSED, State.CLOSED)
    guest.become(State.INITIALISING, State.INIT_WAIT)
    guest.connect()
    guest.send(b"better".ljust(60))
    assert guest.wire.take() == b"better".ljust(60)


@pytest.mark.parametrize(
    "nodes",
    [
        {"request_rx_copy": 0},
        {"request_rx_copy": "x"},
        {"multi_queue_num_queues": 0},
        {"multi_queue_num_queues": 5},
        {"multi_queue_num_queues": 2},
        {"multi_queue_num_queues": "-1"},
        {"tx_ring_ref": 1 << 32},
        {"tx_ring_ref": "1 "},
        {"rx_ring_ref": 0},
        {"rx_ring_ref": 3},
        {"event_channel_tx": 4095},
        {"event_channel_rx": 0},
        {"event_channel_tx": "\xff"},
        {"feature_sg": 2},
        {"request_multicast_control": ""},
    ],
)
def test_nodes_that_make_no_sense(guest: Guest, nodes: dict[str, object]) -> None:
    guest.prepare()
    guest.write(**nodes)
    guest.become(State.CONNECTED, State.CLOSING)
    assert guest.domain.read(ERROR)
    assert guest.domain.grants.pinned() == {}
    # The guest has its ports back.
    guest.become(State.CLOSED, State.CLOSED)
    guest.become(State.INITIALISING, State.INIT_WAIT)
    guest.write(request_multicast_control=0)
    guest.connect()


def test_two_rings_on_one_grant(guest: Guest) -> None:
    guest.prepare()
    guest.write(rx_ring_ref=guest.fronts[0].tx.ref)
    guest.become(State.CONNECTED, State.CONNECTED)
    guest.send(b"odd".ljust(60))
    assert guest.wire.take() == b"odd".ljust(60)
