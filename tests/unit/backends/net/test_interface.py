"""Packets between a frontend's rings and a stream of frames."""

from __future__ import annotations

import socket

import pytest

from kvmxen.backends.net.interface import Credit
from kvmxen.kvm.layout import PAGE_SIZE
from kvmxen.xen.abi import netif
from kvmxen.xen.abi.ring import REQ_PROD
from tests.unit.backends.fake_domain import wait_until
from tests.unit.backends.net.conftest import Path
from tests.unit.backends.net.frames import tcp_frame, udp_frame
from tests.unit.backends.net.frontend import gso, multicast

BLANK, VALIDATED = netif.TX_CSUM_BLANK, netif.TX_DATA_VALIDATED


def pattern(length: int, seed: int = 0) -> bytes:
    return bytes((i * 7 + i // 251 + seed) & 0xFF for i in range(length))


# From the guest.


@pytest.mark.parametrize("start", [0, 250, (1 << 31) - 2, (1 << 32) - 2])
def test_packets_go_out_whole(start: int) -> None:
    path = Path(socket.SOCK_STREAM, start=start)
    packets = [pattern(60), pattern(3000, 1), pattern(14, 2), pattern(netif.MAX_PACKET, 3)]
    cuts = [[60], [14, 86, 2900], [1, 0, 13], [PAGE_SIZE - 1, *[PAGE_SIZE] * 15, 0]]
    cuts[3][-1] = netif.MAX_PACKET - sum(cuts[3])
    for _ in range(3):
        for packet, sizes in zip(packets, cuts, strict=True):
            path.front.send(packet, sizes)
            path.run()
            assert path.frames() == [packet]
            assert path.front.statuses() == [(100 + i, 0) for i in range(len(sizes))]
    assert path.figures["tx_packets"] == 12
    assert path.figures["tx_bytes"] == 3 * sum(map(len, packets))
    assert path.figures["tx_errors"] == path.figures["tx_dropped"] == 0
    # Once out of the guest, and once into the buffer for sending.
    assert path.figures["bytes_copied"] == 2 * path.figures["tx_bytes"]
    path.close()


def test_an_event_when_it_was_asked_for(path: Path) -> None:
    assert path.front.send(pattern(60))
    path.run()
    assert path.events == {"tx": 1, "rx": 0}
    # The backend had gone to sleep; the frontend did not ask again.
    assert path.front.send(pattern(60))
    path.run()
    assert path.events == {"tx": 1, "rx": 0}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("make", [tcp_frame, udp_frame])
def test_a_blank_checksum_is_made(path: Path, version: int, make) -> None:  # type: ignore[no-untyped-def]
    path.front.send(make(version, b"payload", blank=True), flags=BLANK | VALIDATED)
    path.run()
    assert path.frames() == [make(version, b"payload")]


def test_a_checksum_that_is_there_stays(path: Path) -> None:
    wrong = tcp_frame(4, b"payload", blank=True)
    path.front.send(wrong, flags=VALIDATED)
    path.run()
    assert path.frames() == [wrong]


@pytest.mark.parametrize(("version", "kind"), [(4, netif.GSO_TCPV4), (6, netif.GSO_TCPV6)])
def test_a_large_packet_is_cut(path: Path, version: int, kind: int) -> None:
    payload = pattern(30_000)
    frame = tcp_frame(version, payload, blank=True)
    sizes = [66, *[PAGE_SIZE] * 7]
    sizes.append(len(frame) - sum(sizes))
    requests = path.front.slots(frame, sizes, flags=BLANK | VALIDATED | netif.TX_EXTRA_INFO)
    path.front.transmit(requests, [gso(1448, kind)])
    path.run()
    assert path.frames() == [
        tcp_frame(version, payload[at : at + 1448], seq=1000 + at, ident=7 + index)
        for index, at in enumerate(range(0, len(payload), 1448))
    ]
    assert path.figures["tx_gso"] == 1
    assert path.figures["segments"] == 21
    # An extra is answered only with a null response.
    answers = [netif.TX_RESPONSE.parse(entry) for entry in path.front.tx.take()]
    assert sorted(each["status"] for each in answers) == [0] * 9 + [1]


def test_a_slow_link_loses_nothing(path: Path) -> None:
    path._ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    sent = [pattern(40_000, i) for i in range(25)]
    for packet in sent:
        sizes = [PAGE_SIZE] * 9
        path.front.send(packet, [*sizes, 40_000 - sum(sizes)])
        path.run()
    assert len(path.front.statuses()) < 25 * 10
    data = bytearray()
    while len(data) < 25 * 40_004:
        data += path.received()
        path.run()
    assert [bytes(data[at + 4 : at + 40_004]) for at in range(0, len(data), 40_004)] == sent
    assert path.figures["tx_dropped"] == 0


def test_a_link_that_ended_drops(path: Path) -> None:
    path.peer.close()
    path.front.send(pattern(100))
    path.run()
    path.front.send(pattern(100))
    path.run()
    assert path.front.statuses() == [(100, 0), (100, 0)]
    assert path.figures["tx_dropped"] >= 1
    assert path.link.ended


def test_a_rate() -> None:
    path = Path(socket.SOCK_STREAM, credit=Credit(10_000, 3600 * 10**9))
    for _ in range(200):
        path.front.send(pattern(1000))
    path.run()
    # The rest waits in the ring until there is credit again.
    assert len(path.frames()) == 10
    assert len(path.front.statuses()) == 10
    path.close()


def test_a_rate_is_renewed() -> None:
    path = Path(socket.SOCK_STREAM, credit=Credit(10_000, 1_000_000))
    for _ in range(100):
        path.front.send(pattern(1000))
    done = 0

    def all_done() -> bool:
        nonlocal done
        path.run()
        done += len(path.frames())
        return done == 100

    wait_until(all_done)
    path.close()


# To the guest.


@pytest.mark.parametrize("start", [0, 250, (1 << 31) - 2, (1 << 32) - 2])
def test_packets_come_in_whole(start: int) -> None:
    path = Path(socket.SOCK_STREAM, start=start)
    packets = [pattern(14), pattern(PAGE_SIZE, 1), pattern(PAGE_SIZE + 1, 2), pattern(65535, 3)]
    for _ in range(3):
        path.front.post(20)
        path.feed(*packets)
        path.run()
        assert path.front.receive() == [
            (packet, netif.RX_DATA_VALIDATED, None) for packet in packets
        ]
    assert path.figures["rx_packets"] == 12
    assert path.figures["rx_bytes"] == 3 * sum(map(len, packets))
    path.close()


def test_a_packet_waits_for_all_of_its_buffers(path: Path) -> None:
    path.feed(pattern(10_000), pattern(60))
    path.run()
    assert path.front.post(2)
    path.run()
    assert path.front.receive() == []
    assert path.front.post(2)
    path.run()
    assert [data for data, _, _ in path.front.receive()] == [pattern(10_000), pattern(60)]
    assert path.events == {"tx": 0, "rx": 1}


def test_frames_come_in_pieces(path: Path) -> None:
    path.front.post(2)
    wire = b"".join(len(f).to_bytes(4, "big") + f for f in (pattern(50), pattern(60)))
    for byte in wire:
        path.peer.sendall(bytes([byte]))
        path.run()
    assert [data for data, _, _ in path.front.receive()] == [pattern(50), pattern(60)]


@pytest.mark.parametrize("length", [0, 13, netif.MAX_PACKET + 1, 1 << 31])
def test_a_stream_out_of_step_ends(path: Path, length: int) -> None:
    path.front.post(2)
    path.peer.sendall(length.to_bytes(4, "big") + pattern(100))
    path.run()
    assert path.front.receive() == []
    assert path.link.ended


def test_without_scatter_gather_only_what_fits(path: Path) -> None:
    path.interface.longest = PAGE_SIZE
    path.front.post(4)
    path.feed(pattern(PAGE_SIZE + 1), pattern(PAGE_SIZE))
    path.run()
    assert [len(data) for data, _, _ in path.front.receive()] == [PAGE_SIZE]
    assert path.figures["rx_filtered"] == 1


GROUPS = [bytes.fromhex(f"01005e0000{i:02x}") for i in range(70)]


def test_multicast(path: Path) -> None:
    frames = [group + pattern(50) for group in GROUPS[:3]]
    broadcast, unicast = b"\xff" * 6 + pattern(50), pattern(60)
    path.front.post(20)
    path.feed(*frames)
    path.run()
    assert len(path.front.receive()) == 3
    path.multicast.enabled = True
    add, remove = netif.EXTRA_MCAST_ADD, netif.EXTRA_MCAST_DEL
    request = path.front.slots(pattern(14), [14], flags=netif.TX_EXTRA_INFO)
    path.front.transmit(request, [multicast(add, GROUPS[0], True), multicast(add, GROUPS[1])])
    path.front.transmit(request, [multicast(add, GROUPS[1])])
    path.front.transmit(request, [multicast(remove, GROUPS[0])])
    path.run()
    # Messages, not packets.
    assert path.frames() == []
    assert path.front.statuses() == [(100, 0)] * 3
    assert path.multicast.count == 1
    path.feed(*frames, broadcast, unicast)
    path.run()
    assert [data for data, _, _ in path.front.receive()] == [frames[1], broadcast, unicast]
    assert path.figures["rx_filtered"] == 2


def test_the_filter_has_an_end(path: Path) -> None:
    request = path.front.slots(pattern(14), [14], flags=netif.TX_EXTRA_INFO)
    for group in GROUPS:
        path.front.transmit(request, [multicast(netif.EXTRA_MCAST_ADD, group)])
    path.run()
    assert [status for _, status in path.front.statuses()] == [0] * 64 + [-1] * 6


def test_responses_have_no_remains_of_the_host(path: Path) -> None:
    path.front.post(1)
    path.feed(pattern(20))
    path.front.send(pattern(20))
    path.run()
    response = path.front.rx.take()[0]
    assert response == netif.RX_RESPONSE.build(
        {"id": 0, "offset": 0, "flags": netif.RX_DATA_VALIDATED, "status": 20}
    )
    # After a transmit response the guest's own bytes remain.
    request = netif.TX_REQUEST.build(path.front.slots(pattern(20), [20])[0])
    assert path.front.tx.take()[0][4:] == request[4:]


def test_indices_are_published_once_a_round(path: Path) -> None:
    for _ in range(10):
        path.front.send(pattern(100))
    path.interface.round()
    assert len(path.front.statuses()) == 10
    assert path.front.tx.load(REQ_PROD) == 10
    # All ten frames go in one system call; the others found nothing.
    assert path.figures["syscalls"] <= 3
