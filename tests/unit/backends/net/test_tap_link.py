"""Offloads between the rings and a tap device, played by a socket that preserves packets."""

from __future__ import annotations

import struct

import pytest

from kvmxen.backends.net.packet import prepare
from kvmxen.xen.abi import netif
from tests.unit.backends.net.conftest import Path
from tests.unit.backends.net.frames import tcp_frame, udp_frame
from tests.unit.backends.net.frontend import gso

# struct virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset.
HEADER = struct.Struct("<BBHHHH")
NEEDS_CSUM, DATA_VALID = 1, 2
TCPV4, TCPV6, ECN = 1, 4, 0x80


def received(path: Path) -> tuple[tuple[int, ...], bytes]:
    path.run()
    data = path.peer.recv(1 << 17)
    return HEADER.unpack(data[:10]), data[10:]


def test_a_whole_packet(tap: Path) -> None:
    frame = tcp_frame(4, b"data")
    tap.front.send(frame)
    assert received(tap) == ((0, 0, 0, 0, 0, 0), frame)
    tap.front.send(frame, flags=netif.TX_DATA_VALIDATED)
    assert received(tap) == ((DATA_VALID, 0, 0, 0, 0, 0), frame)


@pytest.mark.parametrize(("version", "start"), [(4, 34), (6, 54)])
@pytest.mark.parametrize(("make", "field"), [(tcp_frame, 16), (udp_frame, 6)])
def test_a_blank_checksum_goes_on(tap: Path, version: int, start: int, make, field: int) -> None:  # type: ignore[no-untyped-def]
    frame = make(version, b"data", blank=True)
    tap.front.send(frame, flags=netif.TX_CSUM_BLANK | netif.TX_DATA_VALIDATED)
    assert received(tap) == ((NEEDS_CSUM, 0, 0, 0, start, field), prepare(frame)[0])


@pytest.mark.parametrize(
    ("version", "kind", "flags", "seen", "header"),
    [
        (4, netif.GSO_TCPV4, 0x10, TCPV4, 54),
        (6, netif.GSO_TCPV6, 0x10, TCPV6, 74),
        (4, netif.GSO_TCPV4, 0x90, TCPV4 | ECN, 54),
    ],
)
def test_a_large_packet_goes_on(
    tap: Path, version: int, kind: int, flags: int, seen: int, header: int
) -> None:
    frame = tcp_frame(version, bytes(20_000), flags=flags)
    sizes = [header, *[4000] * 5]
    requests = tap.front.slots(frame, sizes, flags=netif.TX_EXTRA_INFO | netif.TX_CSUM_BLANK)
    tap.front.transmit(requests, [gso(1400, kind)])
    expected = (NEEDS_CSUM, seen, header, 1400, header - 20, 16)
    assert received(tap) == (expected, prepare(frame)[0])
    assert tap.figures["tx_gso"] == 1
    assert tap.figures["segments"] == 0


@pytest.mark.parametrize(
    ("flags", "seen"),
    [
        (0, 0),
        (DATA_VALID, netif.RX_DATA_VALIDATED),
        (NEEDS_CSUM, netif.RX_CSUM_BLANK | netif.RX_DATA_VALIDATED),
    ],
)
def test_checksums_for_the_guest(tap: Path, flags: int, seen: int) -> None:
    frame = tcp_frame(4, b"data")
    tap.front.post(1)
    tap.peer.send(HEADER.pack(flags, 0, 0, 0, 34, 16) + frame)
    tap.run()
    assert tap.front.receive() == [(frame, seen, None)]


@pytest.mark.parametrize(("kind", "gso_type"), [(TCPV4, 1), (TCPV4 | ECN, 1), (TCPV6, 2)])
def test_a_large_packet_for_the_guest(tap: Path, kind: int, gso_type: int) -> None:
    frame = tcp_frame(4, bytes(30_000))
    tap.front.post(8)
    tap.peer.send(HEADER.pack(NEEDS_CSUM, kind, 54, 1448, 34, 16) + frame)
    tap.run()
    # Eight pages, and no entry yet for the segmentation information.
    assert tap.front.receive() == []
    tap.front.post(1)
    tap.run()
    [(data, flags, extra)] = tap.front.receive()
    assert data == frame
    assert flags == netif.RX_CSUM_BLANK | netif.RX_DATA_VALIDATED | netif.RX_EXTRA_INFO
    assert extra is not None
    assert (extra["type"], extra["size"], extra["gso_type"]) == (netif.EXTRA_GSO, 1448, gso_type)
    assert (extra["flags"], extra["features"]) == (0, 0)
    assert tap.figures["rx_gso"] == 1


def test_runts_are_not_for_the_guest(tap: Path) -> None:
    tap.front.post(1)
    tap.peer.send(bytes(10 + 13))
    tap.peer.send(bytes(10 + 14))
    tap.run()
    assert [len(data) for data, _, _ in tap.front.receive()] == [14]
