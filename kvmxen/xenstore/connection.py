"""One client's connection: its bytes in, our bytes out."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable

from kvmxen.abi.xs_wire import ERROR_NAMES, PAYLOAD_MAX, Operation
from kvmxen.xenstore.errors import XenstoreError
from kvmxen.xenstore.operations import execute
from kvmxen.xenstore.session import Session
from kvmxen.xenstore.state import State
from kvmxen.xenstore.watches import Watch
from kvmxen.xenstore.wire import Message, Parser


class Connection:
    """Domain `domid`'s connection to `state`; dom0's are privileged. Safe for threads.

    `wake()` is called, under the store's lock, when an event comes while nothing waited and
    nobody feeds: somebody else's change is then to be taken. It must not call back in.
    `renewed()`, which may be replaced, is called after dom0 began the connection anew or ended
    it: then `released` is set, and bytes are neither taken in nor given out.
    """

    def __init__(self, state: State, domid: int, wake: Callable[[], None] = lambda: None) -> None:
        self._state = state
        self._lock = state.lock
        self._wake = wake
        self._feeding = False
        self.renewed: Callable[[], None] = lambda: None
        self.released = False
        self._session = Session(state, domid, self._event)
        self.domain = self._session.domain
        state.clients.append(self)
        self._parser = Parser()
        self._queue: deque[Message] = deque()
        self._events: set[bytes] = set()
        self._replies = 0
        self._started = b""

    def feed(self, data: bytes) -> None:
        """Take request bytes in, however fragmented, and do what they ask.

        Raises ProtocolError at bytes that cannot be a request: then there is no going on, but
        after reset().
        """
        with self._lock:
            if self.released:
                return
            self._feeding = True
            try:
                for request in self._parser.feed(data):
                    self._queue_message(self._answer(request))
                    self._replies += 1
                    self._state.deliver()
            finally:
                self._feeding = False

    def take(self, limit: int) -> bytes:
        """At most `limit` bytes of replies and events, which are then no longer here."""
        with self._lock:
            return self._take(limit)

    def _take(self, limit: int) -> bytes:
        parts, room = [self._started], limit - len(self._started)
        while room > 0 and self._queue:
            message = self._queue.popleft()
            if message.type == Operation.WATCH_EVENT:
                self._events.discard(message.payload)
            else:
                self._replies -= 1
            parts.append(message.encode())
            self.domain.memory -= len(parts[-1])
            room -= len(parts[-1])
        ready = b"".join(parts)
        self._started = ready[limit:]
        return ready[:limit]

    @property
    def pending(self) -> bool:
        """Whether take() has something."""
        return bool(self._started or self._queue)

    @property
    def stalled(self) -> bool:
        """Whether so much is to be taken that no more should be fed (Quota.outstanding)."""
        return not (
            self.domain.allows("outstanding", self._replies + 1)
            and self.domain.allows("memory", self.domain.memory)
        )

    def reset(self) -> None:
        """As if just connected: no watches, transactions, half requests or waiting output."""
        with self._lock:
            self._reset()

    def close(self) -> None:
        """Disconnect; what the client had under way is over."""
        with self._lock:
            if self in self._state.clients:
                self._state.clients.remove(self)
            self._reset()
            self.released = True

    def renew(self) -> None:
        """Begin anew, as a domain that dom0 introduced (again)."""
        self._reset()
        self._session = Session(self._state, self.domain.domid, self._event)
        self.domain = self._session.domain
        self.released = False
        self.renewed()

    def release(self) -> None:
        """End, until dom0 introduces the domain again."""
        self._reset()
        self.released = True
        self.renewed()

    def _reset(self) -> None:
        self._session.reset()
        self._parser = Parser()
        self.domain.memory -= sum(len(message.encode()) for message in self._queue)
        self._queue.clear()
        self._events.clear()
        self._replies = 0
        self._started = b""

    def _answer(self, request: Message) -> Message:
        try:
            return request._replace(payload=execute(self._session, request))
        except XenstoreError as error:
            name = ERROR_NAMES.get(error.errno, ERROR_NAMES[errno.EINVAL])
            return request._replace(type=Operation.ERROR, payload=name + b"\0")

    def _event(self, watch: Watch, path: str) -> None:
        """Queue an event, unless the same is waiting, it cannot be said, or memory is short."""
        payload = path[watch.prefix :].encode() + b"\0" + watch.token + b"\0"
        if len(payload) > PAYLOAD_MAX or payload in self._events:
            return
        event = Message(Operation.WATCH_EVENT, 0, 0, payload)
        if self.domain.allows("memory", self.domain.memory + len(event.encode())):
            self._queue_message(event)
            # A special event says that something happened, so each one counts.
            if path[0] != "@":
                self._events.add(payload)

    def _queue_message(self, message: Message) -> None:
        if not (self._feeding or self.pending):
            self._wake()
        self._queue.append(message)
        self.domain.memory += len(message.encode())
