"""The store as this process's own dom0 uses it: the way for backends."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from kvmxen.xenstore.permissions import DOM0, Permission, Permissions
from kvmxen.xenstore.quota import Quota
from kvmxen.xenstore.session import Session
from kvmxen.xenstore.state import State
from kvmxen.xenstore.watches import Watch


class Store(State):
    """One domain's xenstore. The methods here act as dom0 and outside of transactions.

    Paths are as a client says them; all methods raise XenstoreError (EINVAL for a path that is
    not well-formed). Callbacks run before the method, or the guest's request, that caused them
    is done; what they change in turn is told after that. Not safe for threads.
    """

    def __init__(self, quota: Quota | None = None) -> None:
        super().__init__(quota)
        self._session = Session(self, DOM0, self._event)
        self._dom0 = self._session.access()
        self._callbacks: dict[Watch, Callable[[str], None]] = {}
        self._tokens = count()

    def read(self, path: str) -> bytes:
        """The value at `path`; raises XenstoreError(ENOENT)."""
        return self._dom0.look(self._session.path(path)).value

    def directory(self, path: str) -> list[str]:
        """The names of the children of `path`; raises XenstoreError(ENOENT)."""
        return list(self._dom0.look(self._session.path(path)).children)

    def permissions(self, path: str) -> Permissions:
        """The permissions of `path`; raises XenstoreError(ENOENT)."""
        return self._dom0.look(self._session.path(path, special=True)).permissions

    def write(self, path: str, value: bytes) -> None:
        """Set the value at `path`, making what is missing above it."""
        self._dom0.write(self._session.path(path), value)
        self.deliver()

    def mkdir(self, path: str) -> None:
        """Make the node `path` and what is missing above it; a node that is stays."""
        self._dom0.mkdir(self._session.path(path))
        self.deliver()

    def rm(self, path: str) -> None:
        """Remove `path` and all below it; raises XenstoreError(ENOENT) without its parent."""
        self._dom0.rm(self._session.path(path))
        self.deliver()

    def set_permissions(self, path: str, *permissions: Permission) -> None:
        """Replace the permissions of `path`, of which there must be one: the owner's."""
        for permission in permissions:
            self.domain(permission.domid)
        self._dom0.set_permissions(self._session.path(path, special=True), permissions)
        self.deliver()

    def watch(self, path: str, callback: Callable[[str], None]) -> Watch:
        """Have `callback(changed_path)` called now, once, and after each change below `path`."""
        watch = self._session.watch(path, b"%d" % next(self._tokens))
        self._callbacks[watch] = callback
        self.deliver()
        return watch

    def unwatch(self, watch: Watch) -> None:
        """End `watch`; its callback is not called any more."""
        del self._callbacks[watch]
        self._session.unwatch(watch.path, watch.token)

    def _event(self, watch: Watch, path: str) -> None:
        def call() -> None:
            callback = self._callbacks.get(watch)
            if callback:
                callback(path)

        self.defer(call)
