"""Transactions: a snapshot of the tree, and a check at the end that it was a fair one.

A commit fails with EAGAIN if any node that the transaction looked at, for reading or writing
or to find it absent, has changed since the transaction began. That children came or went is a
change for those who listed or removed them; that a directory is there now which the transaction
too had to make for a node in it is none. So transactions that make their nodes in the same
directories all go through, as with Xen's oxenstored, which replays the later ones to that end;
its C xenstored (tools/xenstored/transaction.c) refuses them. All else is as there, but that
there a node counts from the first look at it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass

from kvmxen.xenstore.errors import XenstoreError
from kvmxen.xenstore.paths import parent
from kvmxen.xenstore.permissions import Permissions
from kvmxen.xenstore.quota import node_memory, node_size
from kvmxen.xenstore.state import State
from kvmxen.xenstore.tree import Node
from kvmxen.xenstore.watches import Match


@dataclass(slots=True)
class _Seen:
    """A node as the transaction met it, absent where `permissions` is None.

    `listed`: its children matter too. `implied`: the transaction made it, only for the sake of
    one below it, so that it does not matter who does.
    """

    generation: int | None
    altered: int | None
    permissions: Permissions | None
    listed: bool = False
    implied: bool = False
    changed: bool = False
    event: Match | None = None


class Transaction:
    """Offers what State offers, on the snapshot, and remembers what was looked at."""

    def __init__(self, state: State, domid: int) -> None:
        self._state = state
        self._domain = state.domain(domid)
        self._tree = state.tree.snapshot()
        self._seen: dict[str, _Seen] = {}
        self._nodes: dict[int, int] = {}
        self._memory = 0
        self._failed = False

    def get(self, path: str) -> Node | None:
        """The node at `path`, None where there is none.

        Raises XenstoreError(ENOSPC) where the transaction has looked at too many nodes; it can
        then no longer be committed.
        """
        node = self._tree.get(path)
        self._note(path, node)
        return node

    def look(self, path: str) -> Node | None:
        """As get(), where what is at `path` becomes known to the client."""
        node = self._tree.get(path)
        self._note(path, node).implied = False
        return node

    def listed(self, path: str) -> None:
        """Have the children of `path`, which the transaction looked at, matter for the commit."""
        self._seen[path].listed = True

    def put(self, path: str, value: bytes, permissions: Permissions) -> None:
        """Make or change the node at `path`; its parent must be.

        Raises XenstoreError(ENOMEM) where the domain has no memory for it.
        """
        old = self._tree.get(path)
        if old is None:
            self.get(parent(path))
        seen = self._note(path, old)
        size = len(path) + node_size(value, len(permissions), 0)
        if old is not None and seen.changed:
            size -= node_memory(path, old)
        if size > 0 and not self._domain.allows("memory", self._domain.memory + size):
            raise XenstoreError(errno.ENOMEM)
        self._hold(size)
        if old is not None:
            self._count(old, -1)
        seen.changed = True
        node = self._tree.put(path, value, permissions, self._state.next_generation())
        self._count(node, +1)

    def imply(self, path: str, permissions: Permissions) -> None:
        """Make the node at `path` for the sake of one below it; its parent must be."""
        self.put(path, b"", permissions)
        self._seen[path].implied = True

    def remove(self, path: str) -> None:
        """Take out the node at `path`, which must be, and all below it."""
        self.get(parent(path))
        for where, node in self._tree.walk(path):
            seen = self._note(where, node)
            if seen.changed:
                self._hold(-node_memory(where, node))
            seen.changed = seen.listed = True
            seen.implied = False
            self._count(node, -1)
        self._tree.remove(path, self._state.next_generation())

    def nodes(self, domid: int) -> int:
        """The number of nodes that `domid` would own."""
        return self._state.nodes(domid) + self._nodes.get(domid, 0)

    def walk(self, path: str) -> Iterator[tuple[str, Node]]:
        """The nodes below `path` and itself, children before parents."""
        return self._tree.walk(path)

    def changed(self, path: str, old: Permissions | None) -> None:
        """Remember to tell of a change to the node at `path`."""
        self.fire(path, Match.SUBTREE, [])

    def fire(self, path: str, match: Match, readable: list[Permissions]) -> None:
        """Remember the event for the commit; one for the subtree outdoes an exact one."""
        seen = self._seen[path]
        if seen.event is not Match.SUBTREE:
            seen.event = match

    def touched(self) -> Iterator[tuple[str, Node | None, bool, bool]]:
        """What the transaction looked at: each path, the node as it is there now, whether there
        was one when it began, and whether it changed it."""
        for path, seen in self._seen.items():
            yield path, self._tree.get(path), seen.altered is not None, seen.changed

    @property
    def hopeless(self) -> bool:
        """Whether a commit can only fail."""
        return self._failed or self._conflicts()

    def missed(self, path: str) -> None:
        """Note that the transaction found nothing at `path`, whatever is there now."""
        self._seen[path] = _Seen(None, None, None)

    def redo(self, path: str, value: bytes | None, permissions: Permissions) -> None:
        """Make or change the node at `path`, or with no value remove it, and have that be news.

        Raises XenstoreError(ENOENT) where it has no parent.
        """
        above = self.get(parent(path))
        if above is None and (value is not None or parent(path) not in self._seen):
            raise XenstoreError(errno.ENOENT)
        if value is not None:
            self.put(path, value, permissions)
            self.changed(path, None)
        else:
            if self.get(path) is not None:
                self.remove(path)
            exact = self._seen[parent(path)].changed and above is None
            self.fire(path, Match.EXACT if exact else Match.SUBTREE, [])

    def doom(self) -> None:
        """Let no commit succeed: a request in it was refused for lack of room."""
        self._failed = True

    def close(self) -> None:
        """Give back what the transaction took of its domain's memory; it is over."""
        self._hold(-self._memory)

    def commit(self) -> None:
        """Make the changes in the live store, all or, raising XenstoreError, none.

        EAGAIN: somebody else changed what this transaction looked at; ENOSPC: its domain would
        own too many nodes; ENOMEM: it met a limit on its way.
        """
        if self._failed:
            raise XenstoreError(errno.ENOMEM)
        grown = self._nodes.get(self._domain.domid, 0)
        if grown > 0 and not self._domain.allows("nodes", self._domain.nodes + grown):
            raise XenstoreError(errno.ENOSPC)
        state = self._state
        changed = [path for path, seen in self._seen.items() if seen.changed]
        if self._conflicts() or self._crowds(changed):
            raise XenstoreError(errno.EAGAIN)
        # Parents before children; the sort is stable, so siblings keep their order.
        for path in sorted(changed, key=lambda path: path.count("/")):
            node = self._tree.get(path)
            if node is not None:
                # What is implied may be there by now.
                if not self._seen[path].implied or state.get(path) is None:
                    state.put(path, node.value, node.permissions)
            elif state.get(path) is not None:
                state.remove(path)
        for path, seen in self._seen.items():
            if seen.event is not None:
                state.fire(path, seen.event, self._readable(path, seen))

    def _conflicts(self) -> bool:
        for path, seen in self._seen.items():
            live = self._state.get(path)
            if live is None:
                if seen.altered is not None:
                    return True
            elif seen.implied:
                node = self._tree.get(path)
                if node is None or node.permissions != live.permissions:
                    return True
            elif live.altered != seen.altered or (
                seen.listed and live.generation != seen.generation
            ):
                return True
        return False

    def _crowds(self, changed: list[str]) -> bool:
        """Whether a directory would be too large with what others made in it meanwhile."""
        growth: dict[str, int] = {}
        for path in changed:
            if self._tree.get(path) is not None and self._state.get(path) is None:
                above = parent(path)
                growth[above] = growth.get(above, 0) + len(path) - len(above) + (above == "/")
        for path, more in growth.items():
            live = self._state.get(path)
            if live is not None and live.generation != self._seen[path].generation:
                listing = live.listing_size + more
                size = node_size(live.value, len(live.permissions), listing)
                if not self._domain.allows("node_size", size):
                    return True
        return False

    def _note(self, path: str, node: Node | None) -> _Seen:
        seen = self._seen.get(path)
        if seen is None:
            if not self._domain.allows("transaction_nodes", len(self._seen) + 1):
                self._failed = True
                raise XenstoreError(errno.ENOSPC)
            seen = (
                _Seen(node.generation, node.altered, node.permissions)
                if node
                else _Seen(None, None, None)
            )
            self._seen[path] = seen
        return seen

    def _hold(self, size: int) -> None:
        self._memory += size
        self._domain.memory += size

    def _count(self, node: Node, sign: int) -> None:
        self._nodes[node.owner] = self._nodes.get(node.owner, 0) + sign

    def _readable(self, path: str, seen: _Seen) -> list[Permissions]:
        readable = [] if seen.permissions is None else [seen.permissions]
        live, above = self._state.get(path), self._state.get(parent(path))
        if live is not None and above is not None:
            readable += [live.permissions, above.permissions]
        return readable
