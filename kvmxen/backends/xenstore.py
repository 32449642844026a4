"""The domain's xenstore, served to its guest: every call under one lock, from any thread."""

from __future__ import annotations

import os
from collections.abc import Callable

from kvmxen.errors import KvmxenError
from kvmxen.kvm.memory import GuestMemory
from kvmxen.xen.abi.xen import DOMID_GUEST
from kvmxen.xenstore.connection import Connection
from kvmxen.xenstore.errors import DumpError, XenstoreError
from kvmxen.xenstore.nodes import populate
from kvmxen.xenstore.paths import home
from kvmxen.xenstore.ring import RingTransport
from kvmxen.xenstore.store import Store


class XenstoreBackend:
    """Owns the store and the guest's connection through the page at `gpa`.

    If `image`, from dump(), is given, both continue from it, and the guest does not notice. Raises
    DumpError if it is not such an image.
    """

    def __init__(
        self,
        memory: GuestMemory,
        gpa: int,
        notify: Callable[[], None],
        image: bytes | None = None,
    ) -> None:
        if image is None:
            self.store = Store()
            connection = self.store.connect(DOMID_GUEST)
        else:
            self.store, connection = self._load(image)
        connection.wake = self._wake
        self._transport = RingTransport(connection, memory, gpa, notify)
        if image is None:
            self._transport.create()

    def populate(self, **nodes: object) -> None:
        """Write the nodes that a domain starts with (kvmxen/xenstore/nodes.py).

        Raises KvmxenError if the store's file has no room for those that outlive a run.
        """
        try:
            with self.store.state.lock:
                populate(self.store, domid=DOMID_GUEST, **nodes)  # type: ignore[arg-type]
        except XenstoreError as error:
            raise KvmxenError(
                f"cannot create the domain's xenstore: {os.strerror(error.errno)}; fix that, or "
                "choose another file for it"
            ) from None

    def pump(self) -> None:
        """Answer all requests in the guest's ring, after the guest has rung."""
        more = True
        while more:
            # Other threads get the lock in between, however much the guest asks.
            with self.store.state.lock:
                more = self._transport.pump()

    def request_shutdown(self, how: str) -> None:
        """Ask the guest to shut itself down: "poweroff", "reboot" or "halt"."""
        self.store.write(f"{home(DOMID_GUEST)}/control/shutdown", how.encode())

    def request_sysrq(self, key: str) -> None:
        """Ask the guest for what its SysRq `key` does."""
        self.store.write(f"{home(DOMID_GUEST)}/control/sysrq", key.encode())

    def shut_down(self) -> None:
        """Record that the guest has ended; @releaseDomain fires."""
        self.store.state.shut_down(DOMID_GUEST)

    def dump(self, port: int) -> bytes:
        """The whole state, in Xen's own format; `port` is the host's end of the event channel."""
        from kvmxen.xenstore.dump import dump

        return dump(self.store.state, ports={DOMID_GUEST: port})

    @staticmethod
    def _load(image: bytes) -> tuple[Store, Connection]:
        from kvmxen.xenstore.load import load

        store, connections = load(image)
        for restored in connections:
            if restored.connection.domain.domid == DOMID_GUEST:
                return store, restored.connection
        raise DumpError("the state of the xenstore has no connection of the guest")

    def _wake(self) -> None:
        self.store.state.defer(self._transport.push)
