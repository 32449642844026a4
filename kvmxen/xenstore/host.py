"""The nodes as this process's own dom0 uses them, live or in a transaction."""

from __future__ import annotations

import errno

from kvmxen.xenstore.access import Access
from kvmxen.xenstore.errors import XenstoreError
from kvmxen.xenstore.paths import canonical
from kvmxen.xenstore.permissions import DOM0, Permission, Permissions
from kvmxen.xenstore.state import State


class HostNodes:
    """Dom0's use of the nodes of `state` by `access`. Safe for threads.

    All methods raise XenstoreError: EINVAL for a path that is not well-formed, ENOENT where
    there is no such node.
    """

    def __init__(self, state: State, access: Access) -> None:
        self._state = state
        self._access = access

    def read(self, path: str) -> bytes:
        """The value at `path`."""
        with self._state.lock:
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
        """The names of the children of `path`, in the order of their making."""
        with self._state.lock:
            return self._access.directory(canonical(path, DOM0)).names

    def permissions(self, path: str) -> Permissions:
        """The permissions of `path`."""
        with self._state.lock:
            return self._access.look(canonical(path, DOM0, special=True)).permissions

    def write(self, path: str, value: bytes) -> None:
        """Set the value at `path`, making what is missing above it."""
        with self._state.lock:
            self._access.write(canonical(path, DOM0), value)
            self._state.deliver()

    def mkdir(self, path: str) -> None:
        """Make the node `path` and what is missing above it; a node that is stays."""
        with self._state.lock:
            self._access.mkdir(canonical(path, DOM0))
            self._state.deliver()

    def rm(self, path: str) -> None:
        """Remove `path` and all below it; ENOENT only without its parent."""
        with self._state.lock:
            self._access.rm(canonical(path, DOM0))
            self._state.deliver()

    def set_permissions(self, path: str, *permissions: Permission) -> None:
        """Replace the permissions of `path`, of which there must be one: the owner's."""
        with self._state.lock:
            for permission in permissions:
                self._state.domain(permission.domid)
            self._access.set_permissions(canonical(path, DOM0, special=True), permissions)
            self._state.deliver()
