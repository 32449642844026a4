"""Bytes to messages and back: struct xsd_sockmsg followed by its payload (io/xs_wire.h)."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from kvmxen.abi.xs_wire import PAYLOAD_MAX
from kvmxen.xenstore.errors import ProtocolError

HEADER = Struct("<IIII")


class Message(NamedTuple):
    """One request, reply or event; `type` is an abi.xs_wire.Operation, or what a client sent."""

    type: int
    req_id: int
    tx_id: int
    payload: bytes

    def encode(self) -> bytes:
        """The message as it travels."""
        return HEADER.pack(self.type, self.req_id, self.tx_id, len(self.payload)) + self.payload


class Parser:
    """Cuts a byte stream into messages, however it was fragmented."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """Take `data` in and yield the messages that are complete; consume the iterator whole.

        Raises ProtocolError, after the messages before it, at a header that announces more
        than PAYLOAD_MAX bytes: from there on the stream has no meaning.
        """
        buffer = self._buffer
        buffer += data
        while len(buffer) >= HEADER.size:
            kind, req_id, tx_id, length = HEADER.unpack_from(buffer)
            if length > PAYLOAD_MAX:
                raise ProtocolError(f"a payload of {length} bytes")
            end = HEADER.size + length
            if len(buffer) < end:
                return
            payload = bytes(buffer[HEADER.size : end])
            # Deleting at the front of a bytearray only moves its start.
            del buffer[:end]
            yield Message(kind, req_id, tx_id, payload)
