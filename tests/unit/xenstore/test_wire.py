"""Messages on the wire: golden bytes, any fragmentation, the construct definition."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmxen.xen.abi import xs_wire
from kvmxen.xen.abi.layouts.xs_wire import xenstore_domain_interface, xsd_sockmsg
from kvmxen.xen.abi.xs_wire import Operation
from kvmxen.xenstore import ring
from kvmxen.xenstore.errors import ProtocolError
from kvmxen.xenstore.wire import HEADER, Message, Parser

U32 = st.integers(0, 2**32 - 1)
MESSAGES = st.builds(Message, U32, U32, U32, st.binary(max_size=200))


def test_golden_bytes() -> None:
    message = Message(Operation.READ, 0x01020304, 7, b"name\0")
    wire = b"\x02\0\0\0\x04\x03\x02\x01\x07\0\0\0\x05\0\0\0name\0"
    assert message.encode() == wire
    assert list(Parser().feed(wire)) == [message]


@given(U32, U32, U32, U32)
def test_the_header_is_construct_s(kind: int, req_id: int, tx_id: int, length: int) -> None:
    value = {"type": kind, "req_id": req_id, "tx_id": tx_id, "len": length}
    assert HEADER.pack(kind, req_id, tx_id, length) == xsd_sockmsg.build(value)
    assert HEADER.size == xsd_sockmsg.sizeof()


@given(MESSAGES)
def test_messages_are_construct_s(message: Message) -> None:
    kind, req_id, tx_id, payload = message
    value = {"type": kind, "req_id": req_id, "tx_id": tx_id, "len": len(payload)}
    wire = xsd_sockmsg.build(value) + payload
    assert message.encode() == wire
    parser = Parser()
    parser.append(wire[:-1])
    assert not parser.advance()
    parser.append(wire[-1:])
    assert parser.advance()
    header = xsd_sockmsg.parse(wire)
    assert (parser.type, parser.req_id, parser.tx_id) == (header.type, header.req_id, header.tx_id)
    assert parser.payload == payload
    assert not parser.advance()


@given(st.lists(MESSAGES, max_size=8), st.lists(st.integers(1, 60), min_size=1))
def test_any_fragmentation(messages: list[Message], sizes: list[int]) -> None:
    stream = b"".join(message.encode() for message in messages)
    parser, at, i = Parser(), 0, 0
    found: list[Message] = []
    while at < len(stream):
        size = sizes[i % len(sizes)]
        found += parser.feed(stream[at : at + size])
        at, i = at + size, i + 1
    assert found == messages


def test_a_payload_too_long_ends_the_stream_but_not_what_came_before() -> None:
    good = Message(Operation.MKDIR, 1, 0, bytes(xs_wire.PAYLOAD_MAX))
    bad = HEADER.pack(Operation.MKDIR, 2, 0, xs_wire.PAYLOAD_MAX + 1)
    messages = Parser().feed(good.encode() + bad)
    assert next(messages) == good
    with pytest.raises(ProtocolError):
        next(messages)


def test_the_page_is_construct_s() -> None:
    page = xenstore_domain_interface
    offsets, at = {}, 0
    for field in page.subcons:
        offsets[field.name] = at
        at += field.sizeof()
    assert offsets == {
        "req": ring.REQ,
        "rsp": ring.RSP,
        "req_cons": ring.REQ_CONS,
        "req_prod": ring.REQ_PROD,
        "rsp_cons": ring.RSP_CONS,
        "rsp_prod": ring.RSP_PROD,
        "server_features": ring.SERVER_FEATURES,
        "connection": ring.CONNECTION,
        "error": ring.ERROR,
        "evtchn_port": 2076,
    }


def test_errors_travel_by_name() -> None:
    assert xs_wire.ERROR_NAMES[errno.EAGAIN] == b"EAGAIN"
    assert len(xs_wire.ERROR_NAMES) == 16
