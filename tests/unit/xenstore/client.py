"""A client for tests: requests as a kernel or libxenstore would send them."""

from __future__ import annotations

from itertools import count

from kvmxen.xen.abi.xs_wire import Operation
from kvmxen.xenstore.connection import Connection
from kvmxen.xenstore.state import State
from kvmxen.xenstore.wire import Message, Parser


class Client:
    """Domain `domid`'s client of `state`; answers are payloads, errors their names."""

    def __init__(self, state: State, domid: int) -> None:
        self.connection = Connection(state, domid)
        self.events: list[tuple[bytes, bytes]] = []
        self.received: list[Message] = []
        self._parser = Parser()
        self._numbers = count(1)

    def ask(self, operation: int, payload: bytes = b"", tx: int = 0) -> bytes | str:
        """Send one request and return the reply's payload, or the name of the error."""
        number = next(self._numbers)
        self.connection.feed(Message(operation, number, tx, payload).encode())
        (reply,) = [message for message in self.collect() if message.req_id == number]
        assert reply.tx_id == tx
        if reply.type == Operation.ERROR:
            return reply.payload.decode().rstrip("\0")
        assert reply.type == operation
        return reply.payload

    def collect(self) -> list[Message]:
        """All messages that have come; events go to `events` as (path, token)."""
        messages: list[Message] = []
        while self.connection.pending:
            messages += self._parser.feed(self.connection.take(7))
        for message in messages:
            if message.type == Operation.WATCH_EVENT:
                assert (message.req_id, message.tx_id) == (0, 0)
                path, token, rest = message.payload.split(b"\0")
                assert rest == b""
                self.events.append((path, token))
        self.received += messages
        return messages

    def drain(self) -> list[tuple[bytes, bytes]]:
        """The events that came since the last call."""
        self.collect()
        events, self.events = self.events, []
        return events

    def start(self) -> int:
        """Start a transaction and return its id."""
        reply = self.ask(Operation.TRANSACTION_START, b"\0")
        assert isinstance(reply, bytes)
        return int(reply.rstrip(b"\0"))
