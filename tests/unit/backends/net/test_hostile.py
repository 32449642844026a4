"""Frontends that lie get an error, we count it, and nothing else happens."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmxen.kvm.layout import PAGE_SIZE
from kvmxen.xen.abi import netif
from kvmxen.xen.abi.grant_table import READONLY
from kvmxen.xen.abi.ring import REQ_PROD
from tests.unit.backends.fake_domain import wait_until
from tests.unit.backends.net.conftest import Path
from tests.unit.backends.net.frames import TCP, checksum, pseudo_header, tcp_frame, udp_frame
from tests.unit.backends.net.frontend import SIZE, gso, multicast
from tests.unit.mutator import mutating

GOOD = bytes(range(60))
BLANK, EXTRA = netif.TX_CSUM_BLANK, netif.TX_EXTRA_INFO


def refused(path: Path, slots: int = 1) -> None:
    """Check that the packet was answered with errors and went nowhere, and that the next one
    passes."""
    path.run()
    assert [status for _, status in path.front.statuses()] == [netif.RSP_ERROR] * slots
    assert path.frames() == []
    errors = path.figures["tx_errors"]
    assert errors == 1
    assert not path.broken
    path.front.send(GOOD)
    path.run()
    assert path.frames() == [GOOD]
    assert path.front.statuses() == [(100, 0)]
    assert path.figures["tx_errors"] == errors


def broken(path: Path) -> None:
    """Check that the ring is unusable, and nothing was sent."""
    path.run()
    assert path.broken == 1
    assert path.frames() == []


@pytest.mark.parametrize("length", [0, 1, 13])
def test_less_than_a_header(path: Path, length: int) -> None:
    path.front.send(GOOD[:length])
    refused(path)


@pytest.mark.parametrize(
    ("index", "change"),
    [
        (0, {"offset": PAGE_SIZE - 59}),
        (0, {"offset": PAGE_SIZE}),
        (0, {"offset": 0xFFFF}),
        (0, {"size": 0xFFFF}),
        (0, {"size": 0xFFFF, "offset": 0xFFFF}),
        (0, {"size": 29}),
        (1, {"offset": PAGE_SIZE - 29}),
        (1, {"offset": 0xFFFF, "size": 1}),
        (1, {"size": 61}),
        (1, {"size": 0xFFFF}),
        (0, {"gref": 0}),
        (0, {"gref": 0x7FFF}),
        (1, {"gref": 0xFFFFFFFF}),
        (1, {"gref": 3}),
    ],
)
def test_slots_that_lie(path: Path, index: int, change: dict[str, int]) -> None:
    sizes = [60] if index == 0 and "size" not in change else [30, 30]
    requests = path.front.slots(GOOD, sizes)
    requests[index] |= change
    path.front.transmit(requests)
    refused(path, len(sizes))


def test_grants_that_are_not_given(path: Path) -> None:
    memory, layout = path.domain.memory, path.domain.layout
    request = path.front.slots(GOOD, [60])[0]
    entry = (layout.xenheap_mfn + 1 << 12) + request["gref"] * 8
    good = memory.read_u64(entry)
    frame = good >> 32
    bad = {
        "revoked": 0,
        "another's": frame << 32 | 5 << 16 | 1,
        "to be transferred": frame << 32 | 2,
        "the shim's": 1 << 32 | 1,
        "Xen's": layout.xenheap_mfn << 32 | 1,
        "nobody's": 0xFFFFFFFF << 32 | 1,
    }
    for value in bad.values():
        memory.write_u64(entry, value)
        path.front.transmit([request])
        path.run()
        assert path.front.statuses() == [(100, netif.RSP_ERROR)]
        assert memory.read_u64(entry) == value
    assert path.figures["tx_errors"] == len(bad)
    memory.write_u64(entry, good | READONLY)
    path.front.transmit([request])
    path.run()
    assert path.frames() == [GOOD]


@pytest.mark.parametrize("slots", [21, 100, SIZE])
def test_a_packet_of_many_slots(path: Path, slots: int) -> None:
    path.front.send(bytes(slots), [1] * slots)
    refused(path, slots)


def test_a_packet_of_as_many_slots_as_may_be(path: Path) -> None:
    path.front.send(GOOD, [3] * 20)
    path.run()
    assert path.frames() == [GOOD]


def test_slots_of_nothing(path: Path) -> None:
    path.front.send(GOOD, [0, 30, 0, 0, 30, 0])
    path.run()
    assert path.frames() == [GOOD]
    path.front.send(b"", [0] * 5)
    path.run()
    assert [status for _, status in path.front.statuses()] == [0] * 6 + [-1] * 5


def test_one_grant_for_all_slots(path: Path) -> None:
    requests = path.front.slots(GOOD, [20, 20, 20])
    for request in requests:
        request |= {"gref": requests[0]["gref"], "offset": requests[0]["offset"]}
    path.front.transmit(requests)
    path.run()
    assert path.frames() == [GOOD[:20] * 3]


@pytest.mark.parametrize(
    ("frame", "extras"),
    [
        (tcp_frame(4, GOOD), [gso(0)]),
        (tcp_frame(4, GOOD), [gso(47)]),
        (tcp_frame(4, GOOD), [gso(100, 0)]),
        (tcp_frame(4, GOOD), [gso(100, 3)]),
        (tcp_frame(4, GOOD), [gso(100, netif.GSO_TCPV6)]),
        (tcp_frame(6, GOOD), [gso(100, netif.GSO_TCPV4)]),
        (udp_frame(4, GOOD), [gso(100)]),
        (tcp_frame(4, GOOD)[:50], [gso(100)]),
        (tcp_frame(4, GOOD) + b"more", [gso(100)]),
        (tcp_frame(4, GOOD), [bytes(8)]),
        (tcp_frame(4, GOOD), [bytes([9]) + bytes(7)]),
        (tcp_frame(4, GOOD), [b"\xff" * 7, bytes(8)]),
        (tcp_frame(4, GOOD), [gso(100, more=True), gso(0)]),
    ],
)
def test_extras_that_lie(path: Path, frame: bytes, extras: list[bytes]) -> None:
    requests = path.front.slots(frame, [len(frame)], flags=EXTRA | BLANK)
    path.front.transmit(requests, extras)
    refused(path)


def test_extras_without_end_until_they_end(path: Path) -> None:
    requests = path.front.slots(tcp_frame(4, GOOD), [114], flags=EXTRA)
    path.front.transmit(requests, [gso(100, more=True)] * (SIZE - 2) + [gso(50)])
    path.run()
    assert len(path.frames()) == 2
    assert len(path.front.tx.take()) == SIZE


@pytest.mark.parametrize(
    "frame",
    [
        b"\0" * 60,
        tcp_frame(4, GOOD)[:40],
        tcp_frame(4, GOOD)[:14] + b"\x4f" + tcp_frame(4, GOOD)[15:],
        tcp_frame(6, GOOD)[:-1],
        udp_frame(4, GOOD)[:38],
    ],
)
def test_headers_smaller_than_claimed(path: Path, frame: bytes) -> None:
    path.front.send(frame, flags=BLANK)
    refused(path)


REQUEST: st.SearchStrategy[dict[str, int]] = st.builds(
    dict,
    gref=st.integers(0, 300),
    offset=st.integers(0, 0xFFFF) | st.integers(0, 64),
    flags=st.integers(0, 15),
    id=st.integers(0, 0xFFFF),
    size=st.integers(0, 0xFFFF) | st.integers(0, 100),
)
ENTRY = st.binary(min_size=12, max_size=12) | REQUEST.map(
    lambda fields: bytes(netif.TX_REQUEST.build(fields))
)


@given(st.lists(st.lists(ENTRY, min_size=1, max_size=40), max_size=5))
def test_whatever_is_in_the_ring(batches: list[list[bytes]]) -> None:
    """The ring is answered, entry by entry, or broken."""
    path = Path(socket.SOCK_STREAM)
    for batch in batches:
        for entry in batch:
            path.front.tx.put(entry)
        path.front.tx.push()
        path.run()
        path.frames()
        if path.broken:
            break
        answers = [netif.TX_RESPONSE.parse(entry) for entry in path.front.tx.take()]
        assert len(answers) == len(batch)
        assert {each["status"] for each in answers} <= {-1, 0, 1}
    path.close()


@pytest.mark.parametrize("ahead", [SIZE + 1, 1000, 1 << 31, (1 << 32) - 1])
def test_indices_that_cannot_be(path: Path, ahead: int) -> None:
    path.front.tx.store(REQ_PROD, path.front.tx.req_prod + ahead)
    broken(path)


@pytest.mark.parametrize("ahead", [SIZE + 1, 1 << 31, (1 << 32) - 1])
def test_receive_indices_that_cannot_be(path: Path, ahead: int) -> None:
    path.front.rx.store(REQ_PROD, path.front.rx.req_prod + ahead)
    path.feed(GOOD)
    broken(path)


def test_a_packet_that_has_no_end(path: Path) -> None:
    requests = path.front.slots(GOOD, [30, 30])
    path.front.transmit(requests[:1])
    broken(path)


def test_extras_that_are_not_there(path: Path) -> None:
    path.front.transmit(path.front.slots(GOOD, [60], flags=EXTRA))
    broken(path)


def test_extras_that_fill_the_ring(path: Path) -> None:
    requests = path.front.slots(GOOD, [60], flags=EXTRA)
    path.front.transmit(requests, [multicast(9, b"more..", True)] * (SIZE - 1))
    broken(path)


def test_buffers_that_are_none(path: Path) -> None:
    gpa = path.domain.page()
    refs = [0x7FFF, path.domain.grant_readonly(gpa), 0xFFFFFFFF]
    path.front.post(3, refs)
    path.front.post(1)
    path.feed(GOOD, bytes(5000), GOOD)
    path.run()
    entries = [netif.RX_RESPONSE.parse(entry) for entry in path.front.rx.take()]
    assert [each["status"] for each in entries] == [-1, -1, -1, 60]
    assert path.domain.memory.read(gpa, PAGE_SIZE) == bytes(PAGE_SIZE)
    assert path.figures["rx_errors"] == 3
    assert not path.broken


def is_whole(frame: bytes) -> bool:
    """Whether a frame made like `tcp_frame`'s or `udp_frame`'s has the checksum that it needs."""
    segment = frame[34:]
    return checksum(pseudo_header(4, TCP, len(segment)) + segment) == 0


def test_a_packet_that_changes_while_it_is_sent(path: Path) -> None:
    """Each packet goes out as it was copied: its checksum is right."""
    frame = tcp_frame(4, bytes(100))
    request = path.front.slots(frame, [len(frame)], flags=BLANK)[0]
    gpa = path.front._buffers[0][0]
    # The total length, the header's length and the protocol; and the data.
    lies = [frame[14:24], b"\x4f" + frame[15:24], frame[14:16] + b"\xff\xff" + frame[18:24]]
    with (
        mutating(path.domain.memory, gpa + request["offset"] + 14, lies),
        mutating(path.domain.memory, gpa + request["offset"] + 54, [b"\0" * 8, b"\xff" * 8]),
    ):
        seen = 0
        for _ in range(2000):
            path.front.transmit([request])
            path.run()
            for out in path.frames():
                assert out[:16] == frame[:16]
                assert is_whole(out)
                seen += 1
        path.front.statuses()
    assert seen + path.figures["tx_errors"] == 2000


def test_requests_that_change_while_they_are_taken(path: Path) -> None:
    """Only checked values are used: no byte comes from outside the granted page."""
    secret = path.domain.page()
    path.domain.memory.write(secret, b"\x55" * PAGE_SIZE)
    request = path.front.slots(GOOD, [60])[0]
    path.domain.memory.write(path.front._buffers[0][0], b"\xaa" * PAGE_SIZE)
    good = netif.TX_REQUEST.build(request)
    lies = [
        netif.TX_REQUEST.build({**request, **change})
        for change in (
            {"offset": 4090},
            {"size": 0xFFFF},
            {"gref": 0x1000},
            {"flags": BLANK},
            {"size": 3},
            {},
        )
    ]
    # All entries at once.
    with mutating(path.domain.memory, path.front.tx.entry(0), [lie * SIZE for lie in lies]):
        for _ in range(2000):
            path.front.tx.put(good)
            path.front.tx.push()
            path.run()
            path.front.statuses()
            for frame in path.frames():
                assert set(frame) == {0xAA}
                assert len(frame) >= 14
    assert not path.broken
    figures = path.figures
    assert figures["tx_packets"] + figures["tx_errors"] == 2000


def test_a_producer_index_under_the_writers_hand() -> None:
    """Whatever the index is when it is read, it is valid or the ring is broken."""
    path = Path(socket.SOCK_STREAM)
    values = [struct.pack("<I", value) for value in (0, 1, 5, SIZE, SIZE + 1, 1 << 31, 0xFFFFFFFF)]
    with mutating(path.domain.memory, path.front.tx.gpa + REQ_PROD, values):

        def is_broken() -> bool:
            path.run()
            return path.broken > 0

        wait_until(is_broken)
    assert path.broken == 1
    path.close()


def test_a_storm_of_events(path: Path) -> None:
    """Each event rings the doorbell and does nothing else."""
    thread = threading.Thread(target=path.interface.run)
    thread.start()
    try:
        for _ in range(20_000):
            path.doorbell.ring()
        path.front.send(GOOD)
        path.doorbell.ring()
        got = bytearray()

        def it_is_there() -> bool:
            with suppress(BlockingIOError):
                got.extend(path.peer.recv(4 + len(GOOD)))
            return len(got) >= 4 + len(GOOD)

        wait_until(it_is_there)
    finally:
        path.interface.stop()
        thread.join()
    assert got[4:] == GOOD
    assert path.figures["kicks"] >= 20_001
    assert path.figures["wakeups"] <= path.figures["kicks"] + 2
