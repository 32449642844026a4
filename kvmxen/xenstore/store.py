"""The store for this process: nodes and watches for backends, connections for clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

from kvmxen.xenstore.access import Access
from kvmxen.xenstore.connection import Connection
from kvmxen.xenstore.host import HostNodes
from kvmxen.xenstore.permissions import DOM0
from kvmxen.xenstore.quota import Quota
from kvmxen.xenstore.session import Session
from kvmxen.xenstore.state import State
from kvmxen.xenstore.transactions import Transaction
from kvmxen.xenstore.watches import Watch


class Store(HostNodes):
    """One domain's xenstore: dom0's use of the live nodes, connections for clients, and watches.

    All methods take `state.lock`. Callbacks run under it, before the method or the client's request
    that caused them returns; the changes that callbacks make are announced after that.
    """

    def __init__(self, quota: Quota | None = None) -> None:
        state = State(quota)
        self._session = Session(state, DOM0, self._event)
        super().__init__(state, self._session.access)
        self._callbacks: dict[Watch, Callable[[str], None]] = {}
        self._tokens = count()

    def connect(self, domid: int = DOM0, wake: Callable[[], None] = lambda: None) -> Connection:
        """A connection for a client that acts as domain `domid`; for `wake` see Connection."""
        with self.state.lock:
            return Connection(self.state, domid, wake)

    @contextmanager
    def transaction(self) -> Iterator[HostNodes]:
        """Make several changes as one, uninterrupted; an exception undoes them all."""
        with self.state.lock:
            transaction = Transaction(self.state, DOM0)
            try:
                yield HostNodes(self.state, Access(transaction, self.state.domain(DOM0)))
            finally:
                transaction.close()
            transaction.commit()
            self.state.deliver()

    def watch(self, path: str, callback: Callable[[str], None]) -> Watch:
        """Call `callback(changed_path)` once now, and after each change at or below `path`.

        Raises XenstoreError(EINVAL) if `path` is not well-formed.
        """
        with self.state.lock:
            watch = self._session.watch(path, b"%d" % next(self._tokens))
            self._callbacks[watch] = callback
            self.state.deliver()
            return watch

    def unwatch(self, watch: Watch) -> None:
        """End `watch`; its callback is not called any more."""
        with self.state.lock:
            del self._callbacks[watch]
            self._session.unwatch(watch.path, watch.token)

    def _event(self, watch: Watch, path: str) -> None:
        def call() -> None:
            callback = self._callbacks.get(watch)
            if callback:
                callback(path)

        self.state.defer(call)
