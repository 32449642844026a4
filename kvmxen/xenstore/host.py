"""This process's own access to the nodes, as dom0, live or in a transaction."""

from __future__ import annotations

import errno

from kvmxen.xenstore.access import Access
from kvmxen.xenstore.errors import XenstoreError
from kvmxen.xenstore.paths import canonical
from kvmxen.xenstore.permissions import DOM0, Permission, Permissions
from kvmxen.xenstore.state import State


class HostNodes:
    """Dom0's use of the nodes of `state` through `access`, of the live ones or of a transaction's.
    Safe for threads.

    All methods raise XenstoreError: EINVAL if a path is not well-formed, ENOENT if there is no
    such node.
    """

    def __init__(self, state: State, access: Access) -> None:
        self.state = state
        self._access = access

    def read(self, path: str) -> bytes:
        """The value at `path`."""
        with self.state.lock:
            return self._access.look(canonical(path, DOM0)).value

    def exists(self, path: str) -> bool:
        """Whether there is a node at `path`."""
        try:
            self.read(path)
        except XenstoreError as error:
            if error.errno != errno.ENOENT:
                raise
            return False
        return True

    def directory(self, path: str) -> list[str]:
        """The names of the children of `path`, in the order of their creation."""
        with self.state.lock:
            return self._access.directory(canonical(path, DOM0)).names

    def permissions(self, path: str) -> Permissions:
        """The permissions of `path`."""
        with self.state.lock:
            return self._access.look(canonical(path, DOM0, special=True)).permissions

    def write(self, path: str, value: bytes) -> None:
        """Set the value at `path`; create the node and those above it if missing."""
        with self.state.lock:
            self._access.write(canonical(path, DOM0), value)
            self.state.deliver()

    def mkdir(self, path: str) -> None:
        """Create the node `path` and those above it; an existing node stays."""
        with self.state.lock:
            self._access.mkdir(canonical(path, DOM0))
            self.state.deliver()

    def rm(self, path: str) -> None:
        """Remove `path` and all below it; ENOENT only if its parent is missing."""
        with self.state.lock:
            self._access.rm(canonical(path, DOM0))
            self.state.deliver()

    def set_permissions(self, path: str, *permissions: Permission) -> None:
        """Replace the permissions of `path`; there must be at least one, the owner's."""
        with self.state.lock:
            for permission in permissions:
                self.state.domain(permission.domid)
            self._access.set_permissions(canonical(path, DOM0, special=True), permissions)
            self.state.deliver()
