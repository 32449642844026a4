"""Frames built naively, to compare ours with: checksums one byte pair after another."""

from __future__ import annotations

import struct

MAC_A, MAC_B = bytes.fromhex("00163e000001"), bytes.fromhex("00163e000002")
IPV4_A, IPV4_B = bytes([10, 0, 2, 15]), bytes([10, 0, 2, 2])
IPV6_A, IPV6_B = bytes.fromhex("fd00" + "00" * 13 + "0f"), bytes.fromhex("fd00" + "00" * 13 + "02")
TCP, UDP = 6, 17


def checksum(data: bytes) -> int:
    """RFC 1071."""
    data += bytes(len(data) % 2)
    total = sum(data[i] << 8 | data[i + 1] for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def pseudo_header(version: int, kind: int, length: int) -> bytes:
    if version == 4:
        return IPV4_A + IPV4_B + struct.pack("!BBH", 0, kind, length)
    return IPV6_A + IPV6_B + struct.pack("!II", length, kind)


def ip_frame(
    version: int, kind: int, segment: bytes, *, ident: int = 7, more: bytes = b""
) -> bytes:
    """A frame of `segment`; `more` are IPv6 extension headers, the first a hop-by-hop one."""
    if version == 4:
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), ident, 0x4000, 64, kind, 0)
        header += IPV4_A + IPV4_B
        header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
        return MAC_B + MAC_A + b"\x08\x00" + header + segment
    following = 0 if more else kind
    header = struct.pack("!IHBB", 6 << 28, len(more) + len(segment), following, 64)
    return MAC_B + MAC_A + b"\x86\xdd" + header + IPV6_A + IPV6_B + more + segment


def tcp_frame(
    version: int = 4,
    payload: bytes = b"",
    *,
    seq: int = 1000,
    flags: int = 0x10,
    ident: int = 7,
    options: bytes = b"",
    more: bytes = b"",
    blank: bool = False,
) -> bytes:
    """A complete frame; with `blank` its checksum is nonsense."""
    doff = 5 + len(options) // 4
    head = struct.pack("!HHIIBBHHH", 1234, 80, seq, 99, doff << 4, flags, 500, 0, 0) + options
    segment = head + payload
    total = checksum(pseudo_header(version, TCP, len(segment)) + segment)
    if blank:
        total ^= 0x5A5A
    segment = segment[:16] + struct.pack("!H", total) + segment[18:]
    return ip_frame(version, TCP, segment, ident=ident, more=more)


def udp_frame(version: int = 4, payload: bytes = b"", *, blank: bool = False) -> bytes:
    length = 8 + len(payload)
    segment = struct.pack("!HHHH", 1234, 53, length, 0) + payload
    total = checksum(pseudo_header(version, UDP, length) + segment) or 0xFFFF
    if blank:
        total ^= 0x5A5A
    return ip_frame(version, UDP, segment[:6] + struct.pack("!H", total) + segment[8:])
