"""Each operation's bytes on the wire, request and reply, written out by hand.

The numbers are those of enum xsd_sockmsg_type, the rest follows docs/misc/xenstore.txt; no code of
the product builds or reads them.
"""

from __future__ import annotations

import pytest

from kvmxen.xen.abi.xs_wire import Operation
from kvmxen.xenstore.store import Store


def wire(kind: int, req_id: int, tx_id: int, payload: bytes) -> bytes:
    numbers = (kind, req_id, tx_id, len(payload))
    return b"".join(number.to_bytes(4, "little") for number in numbers) + payload


OK = b"OK\0"
# The client, and the type, tx_id and payload of the request; the type and payload of the messages
# that follow: the reply, and events, which precede it if the request caused them.
CONVERSATION = [
    (0, 0, 0, b"check\0", [(0, OK)]),
    (1, 1, 0, b"/local/domain/1\0", [(1, b"name\0data\0")]),
    (1, 2, 0, b"name\0", [(2, b"guest")]),
    (1, 3, 0, b"/local/domain/1/data\0", [(3, b"n1\0")]),
    (1, 4, 0, b"data\0token\0", [(4, OK), (15, b"data\0token\0")]),
    (1, 4, 0, b"@releaseDomain\0special\x001\0", [(4, OK), (15, b"@releaseDomain\0special\0")]),
    (1, 6, 0, b"\0", [(6, b"1\0")]),
    (1, 11, 1, b"data/key\0\x00\xff value", [(11, OK)]),
    (1, 2, 1, b"data/key\0", [(2, b"\x00\xff value")]),
    (1, 2, 0, b"data/key\0", [(16, b"ENOENT\0")]),
    (1, 7, 1, b"T\0", [(15, b"data/key\0token\0"), (7, OK)]),
    (1, 7, 1, b"T\0", [(16, b"ENOENT\0")]),
    (1, 12, 0, b"data/dir\0", [(15, b"data/dir\0token\0"), (12, OK)]),
    (1, 14, 0, b"data/dir\0b1\0r0\0", [(15, b"data/dir\0token\0"), (14, OK)]),
    (0, 3, 0, b"/local/domain/1/data/dir\0", [(3, b"b1\0r0\0")]),
    (1, 13, 0, b"data/dir\0", [(15, b"data/dir\0token\0"), (13, OK)]),
    (1, 5, 0, b"data\0token\0", [(5, OK)]),
    (0, 8, 0, b"5\x00291\x007\0", [(8, OK)]),
    (0, 17, 0, b"5\0", [(17, b"T\0")]),
    (0, 19, 0, b"5\x001\0", [(19, OK)]),
    (0, 18, 0, b"5\0", [(18, OK)]),
    (0, 9, 0, b"5\0", [(9, OK)]),
    (0, 17, 0, b"5\0", [(17, b"F\0")]),
    (1, 10, 0, b"1\0", [(15, b"@releaseDomain/5\0special\0"), (10, b"/local/domain/1\0")]),
    (1, 21, 0, b"\0", [(21, OK)]),
    (1, 22, 0, b"data\x000\0", [(22, b"%d\0key\0\0")]),
    (1, 23, 0, b"", [(23, b"15\0")]),
    (0, 24, 0, b"7\x006\0", [(24, OK)]),
    (0, 23, 0, b"7\0", [(23, b"6\0")]),
    (0, 26, 0, b"1\0watches\x0064\0", [(26, OK)]),
    (0, 25, 0, b"1\0watches\0", [(25, b"64\0")]),
    (1, 26, 0, b"1\0watches\x0064\0", [(16, b"EACCES\0")]),
    (1, 20, 0, b"1\0", [(16, b"ENOSYS\0")]),
    (1, 65535, 0, b"", [(16, b"ENOSYS\0")]),
]


@pytest.mark.parametrize("size", [1, 3, 16, 1 << 20])
def test_a_conversation(store: Store, size: int) -> None:
    """The whole conversation, with requests fed and replies taken in pieces of `size` bytes."""
    store.state.domain(7)
    clients = {domid: store.connect(domid) for domid in (0, 1)}
    for number, (who, kind, tx, request, answers) in enumerate(CONVERSATION):
        client = clients[who]
        sent = wire(kind, number, tx, request)
        for at in range(0, len(sent), size):
            client.feed(sent[at : at + size])
        for answer_kind, answer in answers:
            if kind == 22:
                node = store.state.get("/local/domain/1/data")
                assert node
                answer %= node.generation
            ids = (0, 0) if answer_kind == 15 else (number, tx)
            expected, found = wire(answer_kind, *ids, answer), b""
            while len(found) < len(expected):
                piece = client.take(min(size, len(expected) - len(found)))
                assert piece
                found += piece
            assert found == expected
    assert not any(client.pending for client in clients.values())


def test_no_operation_is_left_out() -> None:
    kinds = {kind for _, kind, *_, answers in CONVERSATION for kind in (kind, answers[0][0])}
    assert kinds >= set(Operation)
