"""The domain's xenstore, served to its guest: every call under one lock, from any thread."""

from __future__ import annotations

from collections.abc import Callable
from threading import RLock

from kvmxen.abi.xen import DOMID_GUEST
from kvmxen.memory import GuestMemory
from kvmxen.xenstore.connection import Connection
from kvmxen.xenstore.nodes import populate
from kvmxen.xenstore.paths import home
from kvmxen.xenstore.ring import RingTransport
from kvmxen.xenstore.store import Store


class XenstoreBackend:
    """Owns the store and the guest's connection by the page at `gpa`."""

    def __init__(self, memory: GuestMemory, gpa: int, notify: Callable[[], None]) -> None:
        self._lock = RLock()
        self.store = Store()
        self._transport = RingTransport(Connection(self.store, DOMID_GUEST), memory, gpa, notify)

    def populate(self, **nodes: object) -> None:
        """Write the nodes that a domain starts with (kvmxen/xenstore/nodes.py)."""
        with self._lock:
            populate(self.store, domid=DOMID_GUEST, **nodes)  # type: ignore[arg-type]

    def pump(self) -> None:
        """The guest rang: answer all that its ring has."""
        more = True
        while more:
            # Others get the lock in between, however much the guest asks.
            with self._lock:
                more = self._transport.pump()

    def request_shutdown(self, how: str) -> None:
        """Ask the guest to end itself: "poweroff", "reboot" or "halt"."""
        with self._lock:
            self.store.write(f"{home(DOMID_GUEST)}/control/shutdown", how.encode())
            # Once, as the caller must not wait for a guest that never stops asking.
            self._transport.pump()
