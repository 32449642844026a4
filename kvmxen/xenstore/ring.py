"""The shared page through which a guest talks to xenstore (docs/misc/xenstore-ring.txt)."""

from __future__ import annotations

from collections.abc import Callable

from kvmxen.kvm.memory import GuestMemory
from kvmxen.ring.byte_ring import RingBroken, RingReader, RingWriter
from kvmxen.xen.abi.xs_wire import RING_SIZE, ConnectionState, Feature, RingError
from kvmxen.xenstore.connection import Connection
from kvmxen.xenstore.errors import ProtocolError

# Offsets in struct xenstore_domain_interface, in bytes.
REQ = 0
RSP = 1024
REQ_CONS = 2048
REQ_PROD = 2052
RSP_CONS = 2056
RSP_PROD = 2060
SERVER_FEATURES = 2064
CONNECTION = 2068
ERROR = 2072

_ROUNDS = 64


class RingTransport:
    """Moves bytes between the page at `gpa` and `connection`.

    `notify()` sends the guest an event. Raises GuestFault if the page is not the guest's. For a
    guest that starts, call `create`; one that has run continues where the page says.
    """

    def __init__(
        self, connection: Connection, memory: GuestMemory, gpa: int, notify: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._memory = memory
        self._gpa = gpa
        self._notify = notify
        self._requests = RingReader(memory, gpa + REQ, RING_SIZE, gpa + REQ_CONS, gpa + REQ_PROD)
        self._replies = RingWriter(memory, gpa + RSP, RING_SIZE, gpa + RSP_CONS, gpa + RSP_PROD)
        self._broken = False
        connection.renewed = self._renew

    def create(self) -> None:
        """Tell the guest what xenstore can do."""
        self._memory.write_u32(self._gpa + SERVER_FEATURES, self._connection.domain.features)

    @property
    def broken(self) -> bool:
        """Whether the guest has broken the ring or the protocol and not reconnected since."""
        return self._broken

    def pump(self) -> bool:
        """Move bytes both ways; call it on an event and after the store changed.

        Returns whether there may be more: one call does a bounded amount of work, so call again
        soon. Requests wait in the ring while too many replies do.
        """
        if self._connection.released:
            return False
        if self._wants_reconnection():
            self._connection.reset()
            self._start()
        if self._broken:
            return False
        moved = False
        try:
            for _ in range(_ROUNDS):
                if not self._round():
                    return False
                moved = True
        except RingBroken:
            self._fail(RingError.RINGIDX)
            return False
        except ProtocolError:
            self._fail(RingError.PROTO)
            return False
        finally:
            if moved:
                self._notify()
        return True

    def push(self) -> None:
        """Move the replies and events that fit to the guest; call it when the store changed."""
        if self._broken:
            return
        try:
            if self._replies.write(self._connection.take(self._replies.free)):
                self._notify()
        except RingBroken:
            self._fail(RingError.RINGIDX)

    def _round(self) -> bool:
        request = b"" if self._connection.stalled else self._requests.read(RING_SIZE)
        self._connection.feed(request)
        reply = self._connection.take(self._replies.free)
        self._replies.write(reply)
        return bool(request or reply)

    def _renew(self) -> None:
        """Start anew: dom0 introduced the domain, perhaps again, or released it."""
        self._broken = self._connection.released
        if not self._broken:
            self.create()
            self._start()

    def _start(self) -> None:
        self._requests.reset()
        self._replies.reset()
        self._broken = False
        self._memory.write_u32(self._gpa + ERROR, RingError.NONE)
        if self._wants_reconnection():
            self._memory.write_u32(self._gpa + CONNECTION, ConnectionState.CONNECTED)
            self._notify()

    def _wants_reconnection(self) -> bool:
        offered = self._connection.domain.features & Feature.RECONNECTION
        state = self._memory.read_u32(self._gpa + CONNECTION)
        return bool(offered) and state == ConnectionState.RECONNECT

    def _fail(self, error: RingError) -> None:
        self._broken = True
        self._connection.reset()
        if self._connection.domain.features & Feature.ERROR:
            self._memory.write_u32(self._gpa + ERROR, error)
        self._notify()
