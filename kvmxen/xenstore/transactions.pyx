"""Transactions: a snapshot of the tree, and a check at the end that it is still valid.

A commit fails with EAGAIN if any node that the transaction looked at, for reading or writing or to
find it absent, has changed since the transaction began. The coming or going of children counts as
a change if the transaction listed or removed the directory. A directory that the transaction had
to create for a node in it may exist by now without a conflict, unless the client had been told
that it did not. So transactions that create nodes in the same directories all succeed, as with
Xen's oxenstored, which replays the later ones for that purpose; its C xenstored
(tools/xenstored/transaction.c) refuses them. Everything else is as there, except that there a node
counts from the first look at it.
"""

from kvmxen.xenstore.paths cimport parent
from kvmxen.xenstore.quota cimport node_memory, node_size
from kvmxen.xenstore.state cimport State
from kvmxen.xenstore.tree cimport Node

import errno

from kvmxen.xenstore.errors import XenstoreError
from kvmxen.xenstore.watches import Match

cdef object _SUBTREE = Match.SUBTREE
cdef object _EXACT = Match.EXACT


cdef class _Seen:
    """A node as the transaction found it; absent if `permissions` is None.

    `looked`: the client was told of it. `listed`: its children matter too. `implied`: the
    transaction only created it for a node below it, so it does not matter who creates it.
    """

    def __cinit__(self, Node node):
        if node is not None:
            self.generation = node.generation
            self.altered = node.altered
            self.permissions = node.permissions


cdef class Transaction:
    """Offers the methods of State on the snapshot, and records which nodes were looked at."""

    def __cinit__(self, State state, int domid):
        self._state = state
        self._domain = state.domain(domid)
        self._tree = state.tree.snapshot()
        self._seen = {}
        self._nodes = {}

    cpdef Node get(self, str path):
        """The node at `path`, or None.

        Raises XenstoreError(ENOSPC) if the transaction has looked at too many nodes; it can then
        no longer be committed.
        """
        cdef Node node = self._tree.get(path)
        self._note(path, node)
        return node

    cpdef Node look(self, str path):
        """The same as get(), but the client learns what is at `path`."""
        cdef Node node = self._tree.get(path)
        cdef _Seen seen = self._note(path, node)
        seen.looked = True
        seen.implied = False
        return node

    def listed(self, str path):
        """Let the children of `path`, which the transaction looked at, matter for the commit."""
        (<_Seen>self._seen[path]).listed = True

    cpdef put(self, str path, bytes value, tuple permissions):
        """Create or change the node at `path`; its parent must exist.

        Raises XenstoreError(ENOMEM) if the domain has no memory for it.
        """
        cdef Node old = self._tree.get(path)
        if old is None:
            self.get(parent(path))
        cdef _Seen seen = self._note(path, old)
        cdef Py_ssize_t size = len(path) + node_size(value, len(permissions), 0)
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

    def imply(self, str path, tuple permissions):
        """Create the node at `path` for the sake of one below it; its parent must exist."""
        cdef _Seen seen = self._note(path, None)
        # If the transaction removed the node, or the client was told that it does not exist, the
        # transaction must create it itself.
        untouched = seen.permissions is None and not (seen.looked or seen.changed)
        self.put(path, b"", permissions)
        seen.implied = untouched

    def remove(self, str path):
        """Remove the node at `path`, which must exist, and all below it."""
        cdef _Seen seen
        self.get(parent(path))
        for where, node in self._tree.walk(path):
            seen = self._note(where, node)
            if seen.changed:
                self._hold(-node_memory(where, node))
            seen.changed = seen.listed = True
            seen.implied = False
            self._count(node, -1)
        self._tree.remove(path, self._state.next_generation())

    cpdef Py_ssize_t nodes(self, int domid) except? -1:
        """The number of nodes that `domid` would own."""
        return self._state.nodes(domid) + self._nodes.get(domid, 0)

    def walk(self, path):
        """The nodes below `path` and itself, children before parents."""
        return self._tree.walk(path)

    cpdef changed(self, str path, tuple old):
        """Record that the commit must announce a change of the node at `path`."""
        self.fire(path, _SUBTREE, None)

    cpdef fire(self, str path, object match, list readable):
        """Record the event for the commit; one for the subtree supersedes an exact one."""
        cdef _Seen seen = self._seen[path]
        if seen.event is not _SUBTREE:
            seen.event = match

    def touched(self):
        """What the transaction looked at: each path, the node that is there now, whether one
        existed when the transaction began, and whether a commit would change it."""
        cdef _Seen seen
        for path, seen in self._seen.items():
            made = seen.changed and not self._is_there(path, seen)
            yield path, self._tree.get(path), seen.permissions is not None, made

    @property
    def hopeless(self):
        """Whether a commit can only fail."""
        return self._failed or self._conflicts()

    def missed(self, str path):
        """Record that the transaction found nothing at `path`, whatever is there now."""
        self._seen[path] = _Seen(None)

    def redo(self, str path, bytes value, tuple permissions):
        """Create or change the node at `path`, or remove it if there is no value, and announce
        that.

        Raises XenstoreError(ENOENT) if it has no parent.
        """
        cdef str above = parent(path)
        orphan = self.get(above) is None
        if value is not None:
            if orphan:
                raise XenstoreError(errno.ENOENT)
            self.put(path, value, permissions)
            self.changed(path, None)
            return
        if self.get(path) is not None:
            self.remove(path)
        exact = orphan and (<_Seen>self._seen[above]).changed
        self.fire(path, _EXACT if exact else _SUBTREE, None)

    def doom(self):
        """Make every commit fail: a request in it was refused for lack of room."""
        self._failed = True

    def close(self):
        """Return the memory that the transaction took from its domain; the transaction is over."""
        self._hold(-self._memory)

    def commit(self):
        """Apply all changes to the live store, or none and raise XenstoreError.

        EAGAIN: somebody else changed what this transaction looked at; ENOSPC: its domain would own
        too many nodes; ENOMEM: it exceeded a limit on its way.
        """
        cdef State state = self._state
        cdef Node node
        cdef _Seen seen
        if self._failed:
            raise XenstoreError(errno.ENOMEM)
        grown = self._nodes.get(self._domain.domid, 0)
        if grown > 0 and not self._domain.allows("nodes", self._domain.nodes + grown):
            raise XenstoreError(errno.ENOSPC)
        changed = self._changed()
        if self._conflicts() or self._crowds(changed):
            raise XenstoreError(errno.EAGAIN)
        for path in changed:
            node = self._tree.get(path)
            if node is not None:
                if not self._is_there(path, self._seen[path]):
                    state.put(path, node.value, node.permissions)
            elif state.get(path) is not None:
                state.remove(path)
        for path, seen in self._seen.items():
            if seen.event is not None:
                state.fire(path, seen.event, self._readable(path, seen))

    cdef bint _is_there(self, str path, _Seen seen) except -1:
        """Whether the node at `path` is implied and somebody else has created it by now."""
        return seen.implied and self._state.get(path) is not None

    cdef list _changed(self):
        """The changed paths, parents before children, otherwise in the order of the first look."""
        cdef _Seen seen
        cdef list changed = []
        for path, seen in self._seen.items():
            if seen.changed:
                changed.append(path)
        if len(changed) > 1:
            changed.sort(key=_depth)
        return changed

    cdef bint _conflicts(self) except -1:
        cdef Node live, node
        cdef _Seen seen
        for path, seen in self._seen.items():
            live = self._state.get(path)
            if live is None:
                if seen.permissions is not None:
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

    cdef bint _crowds(self, list changed) except -1:
        """Whether a directory would be too large with what others have created in it meanwhile."""
        cdef Node live
        cdef dict growth = {}
        for path in changed:
            if self._tree.get(path) is not None and self._state.get(path) is None:
                above = parent(path)
                growth[above] = growth.get(above, 0) + len(path) - len(above) + (above == "/")
        for path, more in growth.items():
            live = self._state.get(path)
            if live is not None and live.generation != (<_Seen>self._seen[path]).generation:
                size = node_size(live.value, len(live.permissions), live.listing_size + more)
                if not self._domain.allows("node_size", size):
                    return True
        return False

    cdef _Seen _note(self, str path, Node node):
        cdef _Seen seen = self._seen.get(path)
        if seen is None:
            if not self._domain.allows("transaction_nodes", len(self._seen) + 1):
                self._failed = True
                raise XenstoreError(errno.ENOSPC)
            seen = self._seen[path] = _Seen(node)
        return seen

    cdef int _hold(self, Py_ssize_t size) except -1:
        self._memory += size
        self._domain.memory += size
        return 0

    cdef int _count(self, Node node, int sign) except -1:
        owner = node.owner
        self._nodes[owner] = self._nodes.get(owner, 0) + sign
        return 0

    cdef list _readable(self, str path, _Seen seen):
        cdef list readable = [] if seen.permissions is None else [seen.permissions]
        cdef Node live = self._state.get(path)
        cdef Node above = self._state.get(parent(path))
        if live is not None and above is not None:
            readable.append(live.permissions)
            readable.append(above.permissions)
        return readable


def _depth(str path):
    return path.count("/")
