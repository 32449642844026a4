"""What one xenstore knows: the tree, the domains, the watches, and what is still to deliver."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from threading import RLock
from typing import TYPE_CHECKING, Protocol

from kvmxen.xenstore.orphans import disown
from kvmxen.xenstore.paths import parent
from kvmxen.xenstore.permissions import DOM0, DOMID_ANY, READ, Permission, Permissions
from kvmxen.xenstore.quota import Domain, Quota, node_memory
from kvmxen.xenstore.tree import Node, Tree
from kvmxen.xenstore.watches import Match, Watches

if TYPE_CHECKING:
    from kvmxen.xenstore.connection import Connection

INTRODUCE = "@introduceDomain"
RELEASE = "@releaseDomain"


class Recorder(Protocol):
    """Who keeps what happens to the nodes: note() each change, commit() before it is answered."""

    def note(self, path: str, value: bytes, permissions: Permissions) -> None: ...
    def commit(self) -> None: ...


class State:
    """The live store. What a transaction offers too is what View asks of both."""

    def __init__(self, quota: Quota | None = None) -> None:
        self.lock = RLock()
        self.tree = Tree()
        self.watches = Watches()
        self.quota = quota or Quota()
        self.domains: dict[int, Domain] = {}
        self.clients: list[Connection] = []
        self.recorder: Recorder | None = None
        self._generation = 0
        self._deferred: deque[Callable[[], None]] = deque()
        self._delivering = False
        self.domain(DOM0).introduced = True
        private = (Permission(DOM0),)
        for path in ("/", "/tool", "/tool/xenstored", INTRODUCE):
            self.put(path, b"", private)
        self.put(RELEASE, b"", (*private, Permission(DOMID_ANY, READ)))

    def domain(self, domid: int) -> Domain:
        """The domain `domid`, which is known from now on."""
        if domid not in self.domains:
            self.domains[domid] = Domain(domid, self.quota)
        return self.domains[domid]

    def knows(self, domid: int) -> bool:
        """Whether `domid` may stand in a permission: it is a domain's, or everybody's."""
        return domid in self.domains or domid == DOMID_ANY

    def is_introduced(self, domid: int) -> bool:
        """Whether xenstore talks to `domid`."""
        return domid in self.domains and self.domains[domid].introduced

    def introduce(self, domid: int) -> None:
        """Say that `domid` is there now; @introduceDomain fires unless it was.

        What its connections had under way is over: their guest starts afresh.
        """
        with self.lock:
            domain = self.domain(domid)
            if not domain.introduced:
                domain.introduced, domain.shutdown = True, False
                self._fire_special(INTRODUCE, domid)
            for client in self._clients_of(domid):
                client.renew()
            self.deliver()

    def release(self, domid: int) -> None:
        """Forget the introduced domain `domid`: its connections, its nodes, what it was allowed.

        @releaseDomain fires.
        """
        with self.lock:
            domain = self.domains[domid]
            for client in self._clients_of(domid):
                client.release()
            disown(self, self.domain(DOM0), domid, (INTRODUCE, RELEASE))
            del self.domains[domid]
            for other in self.domains.values():
                if other.target is domain:
                    other.target = None
            self._fire_special(RELEASE, domid)
            self.deliver()

    def forget_guests(self) -> None:
        """Rid the nodes of all domains but dom0, none of which may have a connection."""
        found = {p.domid for _, node in self.descend() for p in node.permissions}
        for domid in found - {DOM0, DOMID_ANY}:
            disown(self, self.domain(DOM0), domid, (INTRODUCE, RELEASE))
            self.domains.pop(domid, None)

    def shut_down(self, domid: int) -> None:
        """Say that `domid` has shut down: @releaseDomain fires, once until it is resumed."""
        with self.lock:
            domain = self.domains[domid]
            if domain.introduced and not domain.shutdown:
                domain.shutdown = True
                self._fire_special(RELEASE, domid)
                self.deliver()

    def next_generation(self) -> int:
        """A number that no change has had yet."""
        self._generation += 1
        return self._generation

    def get(self, path: str) -> Node | None:
        """The node at `path`, None where there is none."""
        return self.tree.get(path)

    def look(self, path: str) -> Node | None:
        """As get(); it makes a difference to a Transaction."""
        return self.tree.get(path)

    def listed(self, path: str) -> None:
        """Of no consequence here; see Transaction."""

    def put(self, path: str, value: bytes, permissions: Permissions) -> None:
        """Make or change the node at `path`; its parent must be."""
        tree = self.tree
        self._account(path, tree.get(path), -1)
        node = tree.put(path, value, permissions, self.next_generation())
        self._account(path, node, +1)
        if self.recorder is not None:
            self.recorder.note(path, value, permissions)

    def imply(self, path: str, permissions: Permissions) -> None:
        """Make the node at `path` for the sake of one below it; its parent must be."""
        self.put(path, b"", permissions)

    def remove(self, path: str) -> None:
        """Take out the node at `path`, which must be, and all below it."""
        for where, node in self.tree.walk(path):
            self._account(where, node, -1)
        self.tree.remove(path, self.next_generation())
        if self.recorder is not None:
            self.recorder.note(path, b"", ())

    def walk(self, path: str) -> Iterator[tuple[str, Node]]:
        """The nodes below `path` and itself, children before parents."""
        return self.tree.walk(path)

    def descend(self) -> Iterator[tuple[str, Node]]:
        """All nodes, parents before children, children in the order of their making."""
        pending = [(path, self.tree.get(path)) for path in (INTRODUCE, RELEASE, "/")]
        while pending:
            path, node = pending.pop()
            assert node is not None
            yield path, node
            base = path.rstrip("/")
            pending += [(f"{base}/{name}", n) for name, n in reversed(node.items())]

    def nodes(self, domid: int) -> int:
        """The number of nodes that `domid` owns."""
        return self.domain(domid).nodes

    def changed(self, path: str, old: Permissions | None) -> None:
        """Tell of a change to the node at `path`, which had the permissions `old` before."""
        readable = [] if old is None else [old]
        for where in (path, parent(path)):
            node = self.tree.get(where)
            assert node is not None
            readable.append(node.permissions)
        self.fire(path, Match.SUBTREE, readable)

    def fire(self, path: str, match: Match, readable: list[Permissions]) -> None:
        """Tell the watches that a change at `path` concerns, as far as they may know.

        A watcher may know if any of `readable` lets it read: the node's permissions, those it
        had, its parent's (watch_permitted() in tools/xenstored/watch.c).
        """
        for watch in self.watches.matching(path, match):
            if any(watch.domain.rights(permissions) & READ for permissions in readable):
                watch.deliver(watch, path)

    def defer(self, action: Callable[[], None]) -> None:
        """Have `action` run when the request under way is done and answered."""
        self._deferred.append(action)

    def settle(self) -> None:
        """Have what was changed kept, so that it can be acknowledged."""
        if self.recorder is not None:
            self.recorder.commit()

    def deliver(self) -> None:
        """Run what was deferred, in order, and what that defers in turn."""
        self.settle()
        if self._delivering or not self._deferred:
            return
        self._delivering = True
        try:
            while self._deferred:
                self._deferred.popleft()()
                self.settle()
        finally:
            self._delivering = False

    def _clients_of(self, domid: int) -> list[Connection]:
        return [client for client in self.clients if client.domain.domid == domid]

    def _account(self, path: str, node: Node | None, sign: int) -> None:
        if node is not None:
            owner = self.domain(node.owner)
            owner.nodes += sign
            owner.memory += sign * node_memory(path, node)

    def _fire_special(self, name: str, domid: int) -> None:
        node = self.tree.get(name)
        assert node is not None
        self.fire(name, Match.ANONYMOUS, [node.permissions])
        self.fire(f"{name}/{domid}", Match.NAMED, [node.permissions])
