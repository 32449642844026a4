"""The frames of libvirt's messages, in any pieces, and hostile ones."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmxen.front.libvirt.wire import (
    MAX_MESSAGE,
    REMOTE,
    VERSION,
    Code,
    Frames,
    FramingError,
    Kind,
    Message,
    Status,
    error,
)


def test_messages_come_in_any_pieces() -> None:
    messages = [
        Message(REMOTE, VERSION, n, Kind.CALL, n, Status.OK, payload=b"x" * n) for n in range(5)
    ]
    data = b"".join(message.encode() for message in messages)
    frames = Frames()
    assert [m for at in range(len(data)) for m in frames.feed(data[at : at + 1])] == messages
    assert Frames().feed(data) == messages


def test_a_call_has_these_bytes() -> None:
    call = Message(REMOTE, VERSION, 60, Kind.CALL, 2, Status.OK, payload=b"\0\0\0\x0a")
    assert call.encode() == bytes.fromhex(
        "00000020 20008086 00000001 0000003c 00000000 00000002 00000000 0000000a"
    )


@pytest.mark.parametrize("length", [0, 27, MAX_MESSAGE + 1, 0xFFFFFFFF])
def test_a_wrong_length_ends_the_connection(length: int) -> None:
    with pytest.raises(FramingError):
        Frames().feed(struct.pack(">I", length) + bytes(24))


def test_an_error_has_the_fields_that_clients_read() -> None:
    payload = error(Code.NO_DOMAIN, "no domain")
    assert payload[:4] == struct.pack(">i", 42)
    assert payload[8:28] == bytes.fromhex("00000001 00000009") + b"no domain\0\0\0"
    assert payload[28:32] == struct.pack(">i", 2)


@given(st.binary(max_size=400))
def test_hostile_bytes_are_messages_or_the_end(data: bytes) -> None:
    with suppress(FramingError):
        for message in Frames().feed(data):
            assert Frames().feed(message.encode()) == [message]
