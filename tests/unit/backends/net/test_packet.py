"""Checksums and segments, compared with naively built frames, and packets that lie."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmxen.backends.net.packet import complete, flow, prepare, segments
from tests.unit.backends.net.frames import MAC_A, MAC_B, TCP, checksum, ip_frame, pseudo_header
from tests.unit.backends.net.frames import tcp_frame as tcp
from tests.unit.backends.net.frames import udp_frame as udp

HOP_BY_HOP = bytes([TCP, 0, 1, 4, 0, 0, 0, 0])


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("make", [tcp, udp])
@given(payload=st.binary(max_size=300))
def test_checksums(version: int, make: Callable[..., bytes], payload: bytes) -> None:
    assert complete(make(version, payload, blank=True)) == make(version, payload)


def test_a_datagrams_checksum_is_never_zero() -> None:
    # Words that complete the sum of all others.
    for word in range(0x10000):
        frame = udp(4, struct.pack("!H", word))
        if frame[40:42] == b"\xff\xff":
            break
    assert complete(udp(4, struct.pack("!H", word), blank=True)) == frame


def test_a_padded_frame() -> None:
    assert complete(udp(4, b"x", blank=True) + b"padding") == udp(4, b"x") + b"padding"


def test_extension_headers() -> None:
    frame = tcp(6, b"data", more=HOP_BY_HOP)
    assert complete(tcp(6, b"data", more=HOP_BY_HOP, blank=True)) == frame


@pytest.mark.parametrize("version", [4, 6])
def test_a_checksum_is_left_to_finish(version: int) -> None:
    frame, transport, field = prepare(tcp(version, b"some data", blank=True))
    segment = frame[transport:]
    assert field == 16
    # The finisher sums the segment, including the field.
    total = checksum(segment)
    done = frame[: transport + field] + struct.pack("!H", total) + frame[transport + field + 2 :]
    assert done == tcp(version, b"some data")
    length = len(segment)
    whole = pseudo_header(version, TCP, length) + done[transport:]
    assert checksum(whole) == 0


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("length", "size"), [(0, 100), (99, 100), (100, 100), (250, 100)])
def test_segments(version: int, length: int, size: int) -> None:
    payload = bytes(i & 0xFF for i in range(length))
    options = b"\x01\x01\x08\x0a" + bytes(8)
    # Urgent, CWR, ECE, ACK, PSH, FIN.
    flags = 0xF9
    cut = segments(tcp(version, payload, flags=flags, options=options, blank=True), size)
    expected = []
    for index, at in enumerate(range(0, max(length, 1), size)):
        own = flags if index == 0 else flags & ~0x80
        if at + size < length:
            own &= ~0x09
        part = payload[at : at + size]
        expected.append(
            tcp(version, part, seq=1000 + at, flags=own, ident=7 + index, options=options)
        )
    assert cut == expected


def test_numbers_wrap() -> None:
    cut = segments(tcp(4, bytes(150), seq=0xFFFFFFF0, ident=0xFFFF), 100)
    assert cut[1] == tcp(4, bytes(50), seq=(0xFFFFFFF0 + 100) & 0xFFFFFFFF, ident=0)


def test_the_most_there_can_be() -> None:
    payload = bytes(0xFFFF - 14 - 40)
    cut = segments(tcp(4, payload), 48)
    assert len(cut) == -(-len(payload) // 48)
    assert b"".join(frame[54:] for frame in cut) == payload


def change(frame: bytes, at: int, value: bytes) -> bytes:
    return frame[:at] + value + frame[at + len(value) :]


V4, V6 = tcp(4, b"payload!"), tcp(6, b"payload!")
LIES = {
    "nothing": b"",
    "less than a header": V4[:33],
    "cut short": V4[:-1],
    "cut in TCP's header": V4[:40],
    "IPv6 cut in its header": V6[:50],
    "another protocol": change(V4, 12, b"\x08\x06"),
    "IPv6 said to be IPv4": change(V6, 12, b"\x08\x00"),
    "IPv4 said to be IPv6": change(V4, 12, b"\x86\xdd"),
    "a short header length": change(V4, 14, b"\x44"),
    "a header as long as all": change(V4, 14, b"\x4f"),
    "a total length beyond": change(V4, 16, b"\xff\xff"),
    "a total length of none": change(V4, 16, b"\x00\x00"),
    "a total length in TCP's header": change(V4, 16, struct.pack("!H", 30)),
    "a fragment": change(V4, 20, b"\x20\x00"),
    "a later fragment": change(V4, 20, b"\x00\x10"),
    "no transport": change(V4, 23, b"\x01"),
    "a short TCP header": change(V4, 46, b"\x40"),
    "a long TCP header": change(V4, 46, b"\xf0"),
    "IPv6 payload beyond": change(V6, 18, b"\xff\xff"),
    "IPv6 payload of none": change(V6, 18, b"\x00\x00"),
    "an extension beyond": change(V6, 20, b"\x00") if V6[54 + 1] else V6[:54],
    "extensions without end": ip_frame(6, 0, bytes([0, 0, 0, 0, 0, 0, 0, 0]) * 5),
    "an extension without its header": ip_frame(6, 0, b"\x06"),
}


@pytest.mark.parametrize("name", LIES)
def test_lies(name: str) -> None:
    for use in (complete, prepare, lambda frame: segments(frame, 100)):
        with pytest.raises(ValueError, match="no whole packet"):
            use(LIES[name])


@pytest.mark.parametrize("size", [0, 1, 47])
def test_segments_are_not_tiny(size: int) -> None:
    with pytest.raises(ValueError, match="no whole packet"):
        segments(V4, size)


# The most options that fit the headers of a segment, and one more.
MANY = [bytes([TCP, count, *bytes(6 + count * 8)]) for count in (21, 22)]


@pytest.mark.parametrize(
    "frame", [udp(4, b"data"), V4 + b"padding", tcp(6, b"payload!", more=MANY[1])]
)
def test_only_a_whole_packet_of_tcp_is_cut(frame: bytes) -> None:
    with pytest.raises(ValueError, match="no whole packet"):
        segments(frame, 100)


@given(st.binary(max_size=200), st.sampled_from([b"\x08\x00", b"\x86\xdd"]), st.integers(0, 99))
def test_whatever_comes_is_cut_or_refused(data: bytes, kind: bytes, size: int) -> None:
    frame = MAC_A + MAC_B + kind + data
    for use in (complete, prepare, flow, lambda frame: segments(frame, size)):
        try:
            use(frame)
        except ValueError:
            continue


def test_a_segments_headers_can_be_long() -> None:
    assert segments(tcp(6, bytes(99), more=MANY[0]), 50)[1] == tcp(
        6, bytes(49), seq=1050, more=MANY[0]
    )


def test_a_flow_stays_together() -> None:
    assert flow(V4) == flow(tcp(4, b"other", seq=5))
    assert flow(V6) == flow(tcp(6, b"other", seq=5))
    assert len({flow(V4), flow(V6), flow(udp(4))}) == 3
    assert flow(b"x" * 60) == 0
