"""How a stream of frames is cut, seen by a socket that preserves message boundaries."""

from __future__ import annotations

import itertools
import os
import socket

import pytest

from kvmxen.kvm.layout import PAGE_SIZE
from kvmxen.xen.abi import netif
from tests.unit.backends.net.conftest import Path

# What Linux certainly keeps together.
PIECE = 32 << 10


def pattern(length: int, seed: int = 0) -> bytes:
    return bytes((i * 7 + i // 251 + seed) & 0xFF for i in range(length))


def framed(packet: bytes) -> bytes:
    return len(packet).to_bytes(4, "big") + packet


def transmit(path: Path, packet: bytes) -> None:
    pages, rest = divmod(len(packet), PAGE_SIZE)
    path.front.send(packet, [PAGE_SIZE] * pages + [rest])


def keep_pieces(path: Path) -> socket.socket:
    """Replace the link's descriptor by a message socket; return its other end."""
    ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        for end in (ours, peer):
            end.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        os.dup2(ours.fileno(), path.link.fd)
    return peer


def pieces(path: Path, peer: socket.socket) -> list[bytes]:
    """Each message that was sent at once."""
    found = []
    while True:
        path.run()
        try:
            found.append(peer.recv(1 << 17))
        except BlockingIOError:
            return found


def test_whole_frames_are_sent_at_once_or_a_long_one_alone(path: Path) -> None:
    lengths = [60, 1514, 9014, netif.MAX_PACKET, 14, 40_000, 40_001, *[9014] * 5, PIECE - 4, 14]
    packets = [pattern(length, seed) for seed, length in enumerate(lengths)]
    for packet in packets:
        transmit(path, packet)
    with keep_pieces(path) as peer:
        sent = pieces(path, peer)
    found = []
    for piece in sent:
        rest = piece
        while rest:
            end = 4 + int.from_bytes(rest[:4], "big")
            assert end <= len(rest)
            assert end == len(piece) or len(piece) <= PIECE
            found.append(rest[4:end])
            rest = rest[end:]
    assert found == packets
    # As many as there is room for.
    assert [len(piece) - 4 for piece in sent if len(piece) > PIECE] == lengths[3:4] + lengths[5:7]
    assert framed(packets[0]) + framed(packets[1]) + framed(packets[2]) in sent
    assert b"".join(framed(packet) for packet in packets[7:10]) in sent


def test_the_rest_of_a_frame_is_sent_alone(path: Path) -> None:
    # Linux sends at once less than half of the minimum that it grants, and no more than there is
    # room for.
    path._ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    long, short = pattern(netif.MAX_PACKET), pattern(60, 1)
    transmit(path, long)
    transmit(path, short)
    path.interface.round()
    begun = path.peer.recv(1 << 20)
    assert 0 < len(begun) < len(long)
    with keep_pieces(path) as peer:
        assert pieces(path, peer) == [framed(long)[len(begun) :], framed(short)]


def test_messages_go_by_one_system_call(path: Path) -> None:
    for seed in range(5):
        transmit(path, pattern(9014, seed))
    path.interface.round()
    # Two messages are sent; the other call looks for packets from the link.
    assert path.figures["syscalls"] == 2
    assert len(path.frames()) == 5


# A send may end within a message, or between two.
@pytest.mark.parametrize("room", range(1, 30_000, 2500))
def test_a_message_ends_where_it_was_to_end(path: Path, room: int) -> None:
    """Whatever room the socket has, and however often it has none."""
    packets = [pattern(9014 + seed, seed) for seed in range(9)]
    for packet in packets:
        transmit(path, packet)
    whole = b"".join(map(framed, packets))
    ends = [sum(4 + len(packet) for packet in packets[:end]) for end in (3, 6, 9)]
    path._ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
    path.interface.round()
    assert not path.interface.round()
    begun = path.peer.recv(1 << 20)
    assert whole.startswith(begun)
    with keep_pieces(path) as peer:
        starts = [len(begun), *(end for end in ends if end > len(begun))]
        assert pieces(path, peer) == [whole[a:b] for a, b in itertools.pairwise(starts)]
