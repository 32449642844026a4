"""What a domain may do to the nodes, in the live store or in a transaction.

The meaning, to the order in which errors are found, is that of tools/xenstored/core.c.
Paths are canonical; every method raises XenstoreError.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Protocol

from kvmxen.xenstore.errors import XenstoreError
from kvmxen.xenstore.paths import ancestry, parent
from kvmxen.xenstore.permissions import DOM0, OWNER, READ, WRITE, Permissions
from kvmxen.xenstore.quota import Domain, node_size
from kvmxen.xenstore.tree import Node
from kvmxen.xenstore.watches import Match


class View(Protocol):
    """The store as State and Transaction show it; see there."""

    def get(self, path: str) -> Node | None: ...
    def listed(self, path: str) -> None: ...
    def put(self, path: str, value: bytes, permissions: Permissions) -> None: ...
    def remove(self, path: str) -> None: ...
    def walk(self, path: str) -> Iterator[tuple[str, Node]]: ...
    def nodes(self, domid: int) -> int: ...
    def memory(self, domid: int) -> int: ...
    def fire(self, path: str, match: Match, readable: list[Permissions]) -> None: ...


class Access:
    """The nodes of `view` as `domain` may use them."""

    def __init__(self, view: View, domain: Domain) -> None:
        self._view = view
        self._domain = domain

    def look(self, path: str, right: int = READ) -> Node:
        """The node at `path`; ENOENT, or EACCES where `domain` has not all of `right`."""
        node = self._find(path, right)
        if node is None:
            raise XenstoreError(errno.ENOENT)
        return node

    def directory(self, path: str) -> Node:
        """The node at `path`, for its children; raises as look()."""
        node = self.look(path)
        self._view.listed(path)
        return node

    def write(self, path: str, value: bytes) -> None:
        """Set a node's value; makes it, and what is missing above it, where it is not."""
        node = self._find(path, WRITE)
        if node is None:
            self._create(path, value)
        else:
            self._check_room(value, node.permissions, node.listing_size)
            self._view.put(path, value, node.permissions)
        self._changed(path)

    def mkdir(self, path: str) -> None:
        """Make a node with no value, and what is missing above it; a node that is stays."""
        if self._find(path, WRITE) is None:
            self._create(path, b"")
            self._changed(path)

    def rm(self, path: str) -> None:
        """Remove a node and all below it. ENOENT only where its parent is missing too."""
        if self._find(path, WRITE) is None:
            if self._view.get(parent(path)) is None:
                raise XenstoreError(errno.ENOENT)
            return
        if path == "/":
            raise XenstoreError(errno.EINVAL)
        gone = {where: node.permissions for where, node in self._view.walk(path)}
        above = self._view.get(parent(path))
        assert above is not None
        # The tree is about to change under `above`.
        held = above.permissions
        self._view.remove(path)
        for where, permissions in gone.items():
            match = Match.SUBTREE if where == path else Match.EXACT
            self._view.fire(where, match, [permissions, gone.get(parent(where), held)])

    def set_permissions(self, path: str, permissions: Permissions) -> None:
        """Replace a node's permissions; the owner may, and only dom0 may change the owner."""
        if not permissions[0].valid:
            raise XenstoreError(errno.ENOENT)
        node = self.look(path, WRITE | OWNER)
        if self._domain.domid != DOM0 and permissions[0].domid != node.owner:
            raise XenstoreError(errno.EPERM)
        self._check_room(node.value, permissions, node.listing_size)
        old = node.permissions
        self._view.put(path, node.value, permissions)
        self._changed(path, old)

    def _find(self, path: str, right: int) -> Node | None:
        """The node at `path`, None where there is none and `domain` may know that.

        Who has no right to a node's closest ancestor is not told whether the node is there
        (errno_from_parents()).
        """
        node = self._view.get(path)
        if node is not None:
            if self._domain.rights(node.permissions) & right != right:
                raise XenstoreError(errno.EACCES)
            return node
        above = self._closest(path)
        if not self._domain.rights(above.permissions) & right:
            raise XenstoreError(errno.EACCES)
        return None

    def _closest(self, path: str) -> Node:
        while True:
            path = parent(path)
            node = self._view.get(path)
            if node is not None:
                return node

    def _create(self, path: str, value: bytes) -> None:
        missing = []
        for where in ancestry(path):
            above = self._view.get(where)
            if above is not None:
                break
            missing.append(where)
        assert above is not None
        permissions = above.permissions
        if self._domain.domid != DOM0:
            permissions = (permissions[0]._replace(domid=self._domain.domid), *permissions[1:])
        listing = above.listing_size + len(missing[-1].rpartition("/")[2]) + 1
        self._check_room(above.value, above.permissions, listing)
        self._check_room(value, permissions, 0, sum(len(where) for where in missing))
        owned = self._view.nodes(self._domain.domid) + len(missing)
        if not self._domain.allows("nodes", owned):
            raise XenstoreError(errno.ENOSPC)
        for where in reversed(missing):
            self._view.put(where, value if where == path else b"", permissions)

    def _check_room(
        self, value: bytes, permissions: Permissions, listing: int, more: int = 0
    ) -> None:
        size = node_size(value, len(permissions), listing)
        if not self._domain.allows("node_size", size):
            raise XenstoreError(errno.ENOSPC)
        if not self._domain.allows("memory", self._view.memory(self._domain.domid) + size + more):
            raise XenstoreError(errno.ENOMEM)

    def _changed(self, path: str, old: Permissions | None = None) -> None:
        readable = [] if old is None else [old]
        for where in (path, parent(path)):
            node = self._view.get(where)
            assert node is not None
            readable.append(node.permissions)
        self._view.fire(path, Match.SUBTREE, readable)
