"""One client's connection: its bytes in, our bytes out."""

from kvmxen.xenstore.wire cimport Parser, pack

import errno
from collections import deque

from kvmxen.xen.abi.xs_wire import ERROR_NAMES, PAYLOAD_MAX, Operation
from kvmxen.xenstore.errors import XenstoreError
from kvmxen.xenstore.operations import execute
from kvmxen.xenstore.session import Session

cdef unsigned int _ERROR = Operation.ERROR
cdef unsigned int _WATCH_EVENT = Operation.WATCH_EVENT
cdef bytes _EVENT_HEADER = pack(Operation.WATCH_EVENT, 0, 0, b"")[:4]
cdef Py_ssize_t _PAYLOAD_MAX = PAYLOAD_MAX
cdef dict _ERRORS = {code: name + b"\0" for code, name in ERROR_NAMES.items()}
cdef bytes _EINVAL = _ERRORS[errno.EINVAL]


cdef inline bint _is_event(bytes message):
    return message.startswith(_EVENT_HEADER)


cdef class Connection:
    """Domain `domid`'s connection to `state`; dom0's are privileged. Safe for threads.

    `wake()` is called under the store's lock if an event arrives while nothing waits and nobody
    feeds: somebody else's change then waits to be taken. It must not call back in. `renewed()` is
    called after dom0 restarted the connection or ended it; in the latter case `released` is set,
    and no bytes go in or out. Both callbacks may be replaced.
    """

    def __init__(self, state, domid, wake=lambda: None):
        self._state = state
        self._lock = state.lock
        self.wake = wake
        self.renewed = lambda: None
        self._event_taker = self._event
        self._queue = deque()
        self._events = set()
        self._started = b""
        self._begin(domid)
        state.clients.append(self)

    def feed(self, data):
        """Take in request bytes, however fragmented, and execute the requests.

        Raises ProtocolError if the bytes cannot be a request; only reset() helps then.
        """
        with self._lock:
            if self.released:
                return
            self._feeding = True
            try:
                self._parser.append(data)
                while self._parser.advance():
                    self._push(self._answer())
                    self._replies += 1
                    self._state.deliver()
            finally:
                self._feeding = False

    def take(self, Py_ssize_t limit):
        """Take out at most `limit` bytes of replies and events."""
        with self._lock:
            return self._take(limit)

    @property
    def pending(self):
        """Whether take() has something."""
        return bool(self._started or self._queue)

    @property
    def stalled(self):
        """Whether so much waits to be taken that no more should be fed (Quota.outstanding)."""
        return not (
            self.domain.allows("outstanding", self._replies + 1)
            and self.domain.allows("memory", self.domain.memory)
        )

    def reset(self):
        """Return to the state after connecting: no watches, transactions, partial requests or
        output."""
        with self._lock:
            self._reset()

    def close(self):
        """Disconnect; the client's watches and transactions end."""
        with self._lock:
            if self in self._state.clients:
                self._state.clients.remove(self)
            self._reset()
            self.released = True

    def renew(self):
        """Restart, as for a domain that dom0 introduced (again)."""
        self._reset()
        self._begin(self.domain.domid)
        self.released = False
        self.renewed()

    def release(self):
        """End the connection until dom0 introduces the domain again."""
        self._reset()
        self.released = True
        self.renewed()

    def inbound(self):
        """The received part of an incomplete request."""
        return self._parser.rest

    def outbound(self):
        """The output to be taken: the rest of a started message, and the whole ones after it."""
        return self._started, b"".join(self._queue)

    def resume(self, bytes inbound, bytes started, messages):
        """Continue where another connection, with this inbound() and outbound(), stopped."""
        self._parser.append(inbound)
        self._started = started
        for message in messages:
            self._queue.append(message.encode())
            self.domain.memory += 16 + len(message.payload)
            if message.type != _WATCH_EVENT:
                self._replies += 1
            elif not message.payload.startswith(b"@"):
                self._events.add(message.payload)

    cdef int _begin(self, domid) except -1:
        self._parser = Parser()
        self.session = Session(self._state, domid, self._event_taker)
        self.domain = self.session.domain
        return 0

    cdef bytes _answer(self):
        """Execute the parser's request and have its changes kept; return its reply."""
        cdef Parser request = self._parser
        cdef unsigned int type = request.type
        cdef bytes payload
        try:
            payload = execute(self.session, type, request.tx_id, request.payload)
            self._state.settle()
        except XenstoreError as error:
            type, payload = _ERROR, _ERRORS.get(error.errno, _EINVAL)
        return pack(type, request.req_id, request.tx_id, payload)

    cdef bytes _take(self, Py_ssize_t limit):
        cdef bytes message
        cdef list parts = []
        cdef Py_ssize_t room = limit, used = 0
        if self._started:
            parts.append(self._started)
            room -= len(self._started)
        while room > 0 and self._queue:
            message = self._queue.popleft()
            if _is_event(message):
                self._events.discard(message[16:])
            else:
                self._replies -= 1
            parts.append(message)
            used += len(message)
            room -= len(message)
        if used:
            self.domain.memory -= used
        message = parts[0] if len(parts) == 1 else b"".join(parts)
        if room >= 0:
            self._started = b""
            return message
        self._started = message[limit:]
        return message[:limit]

    def _event(self, watch, str path):
        """Queue an event, unless the same waits, it cannot be expressed, or memory is short."""
        cdef bytes payload = path[watch.prefix:].encode() + b"\0" + watch.token + b"\0"
        if len(payload) > _PAYLOAD_MAX or payload in self._events:
            return
        if self.domain.allows("memory", self.domain.memory + 16 + len(payload)):
            self._push(pack(_WATCH_EVENT, 0, 0, payload))
            # Each special event counts: it says that something happened.
            if path[0] != "@":
                self._events.add(payload)

    cdef int _push(self, bytes message) except -1:
        if not (self._feeding or self._started or self._queue):
            self.wake()
        self._queue.append(message)
        self.domain.memory += len(message)
        return 0

    cdef int _reset(self) except -1:
        self.session.reset()
        self._parser = Parser()
        self.domain.memory -= sum([len(message) for message in self._queue])
        self._queue.clear()
        self._events.clear()
        self._replies = 0
        self._started = b""
        return 0
