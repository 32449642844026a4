"""The state of one xenstore: the tree, the domains, the watches, and undelivered events."""

from kvmxen.xenstore.domain cimport Domain
from kvmxen.xenstore.paths cimport parent
from kvmxen.xenstore.quota cimport node_memory
from kvmxen.xenstore.tree cimport Node, Tree
from kvmxen.xenstore.watches cimport Watch, Watches

from collections import deque
from threading import RLock

from kvmxen.xenstore.errors import XenstoreError
from kvmxen.xenstore.orphans import disown
from kvmxen.xenstore.permissions import DOM0, DOMID_ANY, READ, Permission
from kvmxen.xenstore.quota import Quota
from kvmxen.xenstore.watches import Match

INTRODUCE = "@introduceDomain"
RELEASE = "@releaseDomain"
ROOTS = (INTRODUCE, RELEASE, "/")

cdef int _READ = READ
cdef object _SUBTREE = Match.SUBTREE


cdef class State:
    """The live store. View has the methods that a transaction offers too.

    `peaks` has the highest use of each quota by any guest, past guests included.
    """

    def __init__(self, quota=None):
        self.lock = RLock()
        self.tree = Tree()
        self.watches = Watches()
        self.quota = quota or Quota()
        self.domains = {}
        self.peaks = {}
        self.clients = []
        self._deferred = deque()
        self._changes = []
        self.domain(DOM0).introduced = True
        private = (Permission(DOM0),)
        for path in ("/", "/tool", "/tool/xenstored", INTRODUCE):
            self.put(path, b"", private)
        self.put(RELEASE, b"", (*private, Permission(DOMID_ANY, READ)))

    cpdef Domain domain(self, int domid):
        """The domain `domid`, which is known from now on."""
        cdef Domain domain = self.domains.get(domid)
        if domain is None:
            domain = self.domains[domid] = Domain(domid, self.quota, self.peaks)
        return domain

    def knows(self, domid):
        """Whether `domid` may be named in a permission: it is a known domain, or means
        everybody."""
        return domid in self.domains or domid == DOMID_ANY

    def is_introduced(self, domid):
        """Whether `domid` has been introduced."""
        return domid in self.domains and self.domains[domid].introduced

    def introduce(self, domid):
        """Record that `domid` exists; @introduceDomain fires unless it did already.

        Its connections' watches and transactions end: their guest starts afresh.
        """
        with self.lock:
            domain = self.domain(domid)
            if not domain.introduced:
                domain.introduced, domain.shutdown = True, False
                self._fire_special(INTRODUCE, domid)
            for client in self._clients_of(domid):
                client.renew()
            self.deliver()

    def release(self, domid):
        """Forget the introduced domain `domid`: its connections, its nodes, its rights.

        @releaseDomain fires.
        """
        with self.lock:
            domain = self.domains[domid]
            for client in self._clients_of(domid):
                client.release()
            # Not recorded: all guests are removed from the recorded nodes when they are used
            # again.
            recorder, self.recorder = self.recorder, None
            disown(self, self.domain(DOM0), domid, (INTRODUCE, RELEASE))
            self.recorder = recorder
            del self.domains[domid]
            for other in self.domains.values():
                if other.target is domain:
                    other.target = None
            self._fire_special(RELEASE, domid)
            self.deliver()

    def forget_guests(self):
        """Remove all domains but dom0 from the nodes; none of them may have a connection."""
        found = {p.domid for _, node in self.descend() for p in node.permissions}
        for domid in found - {DOM0, DOMID_ANY}:
            disown(self, self.domain(DOM0), domid, (INTRODUCE, RELEASE))
            self.domains.pop(domid, None)

    def shut_down(self, domid):
        """Record that `domid` has shut down; @releaseDomain fires, once until it is resumed."""
        with self.lock:
            domain = self.domains[domid]
            if domain.introduced and not domain.shutdown:
                domain.shutdown = True
                self._fire_special(RELEASE, domid)
                self.deliver()

    cpdef unsigned long long next_generation(self) noexcept:
        """A number that no change has had yet."""
        self._generation += 1
        return self._generation

    cpdef Node get(self, str path):
        """The node at `path`, or None."""
        return self.tree.get(path)

    cpdef Node look(self, str path):
        """The same as get(); a Transaction treats it differently."""
        return self.tree.get(path)

    def listed(self, path):
        """No effect here; see Transaction."""

    cpdef put(self, str path, bytes value, tuple permissions):
        """Create or change the node at `path`; its parent must exist."""
        cdef Node node = self.tree.get(path)
        if self.recorder is not None:
            before = None if node is None else (node.value, node.permissions)
            self._changes.append((path, before))
            self.recorder.note(path, node, value, permissions)
        if node is not None:
            self._account(path, node, -1)
        node = self.tree.put(path, value, permissions, self.next_generation())
        self._account(path, node, +1)

    def imply(self, path, permissions):
        """Create the node at `path` for the sake of one below it; its parent must exist."""
        self.put(path, b"", permissions)

    def remove(self, path):
        """Remove the node at `path`, which must exist, and all below it."""
        if self.recorder is not None:
            node = self.tree.get(path)
            self._changes.append((path, node))
            self.recorder.note(path, node, b"", ())
        for where, node in self.tree.walk(path):
            self._account(where, node, -1)
        self.tree.remove(path, self.next_generation())

    def walk(self, path):
        """The nodes below `path` and itself, children before parents."""
        return self.tree.walk(path)

    def descend(self, tops=ROOTS):
        """The nodes at `tops` and below, parents before children, children in the order of
        their creation."""
        pending = [(path, self.tree.get(path)) for path in tops]
        while pending:
            path, node = pending.pop()
            assert node is not None
            yield path, node
            base = path.rstrip("/")
            pending += [(f"{base}/{name}", n) for name, n in reversed(node.items())]

    cpdef Py_ssize_t nodes(self, int domid) except? -1:
        """The number of nodes that `domid` owns."""
        return self.domain(domid).nodes

    cpdef changed(self, str path, tuple old):
        """Announce a change of the node at `path`, which had the permissions `old` before."""
        cdef list watches = self.watches.matching(path, _SUBTREE)
        if not watches:
            return
        cdef list readable = [
            self.tree.get(path).permissions, self.tree.get(parent(path)).permissions
        ]
        if old is not None:
            readable.append(old)
        self._tell(watches, path, readable)

    cpdef fire(self, str path, object match, list readable):
        """Notify the watches that a change at `path` concerns, if they may know of it.

        A watcher may know if any of `readable` lets it read: the node's permissions, those it had
        before, or its parent's (watch_permitted() in tools/xenstored/watch.c).
        """
        self._tell(self.watches.matching(path, match), path, readable)

    def defer(self, action):
        """Run `action` once the current request is executed and answered."""
        self._deferred.append(action)

    cpdef settle(self):
        """Have the changes kept, so that they can be acknowledged.

        Raises XenstoreError on failure, and then nothing was changed; watchers may still be
        notified.
        """
        if self.recorder is None:
            return
        try:
            self.recorder.commit()
        except XenstoreError:
            self._undo()
            raise
        finally:
            self._changes.clear()

    cpdef deliver(self):
        """Run deferred actions in order, including those that they defer in turn."""
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

    cdef int _undo(self) except -1:
        """Undo the changes since the last settle()."""
        recorder, self.recorder = self.recorder, None
        try:
            for path, before in reversed(self._changes):
                if before is None:
                    self.remove(path)
                elif isinstance(before, Node):
                    self.tree.graft(path, before, self.next_generation())
                    for where, node in self.tree.walk(path):
                        self._account(where, node, +1)
                else:
                    self.put(path, *before)
        finally:
            self.recorder = recorder
        return 0

    def _clients_of(self, domid):
        return [client for client in self.clients if client.domain.domid == domid]

    cdef int _tell(self, list watches, str path, list readable) except -1:
        cdef Watch watch
        for watch in watches:
            for permissions in readable:
                if watch.domain.rights(permissions) & _READ:
                    watch.deliver(watch, path)
                    break
        return 0

    cdef int _account(self, str path, Node node, int sign) except -1:
        cdef Domain owner = self.domain(node.owner)
        owner.nodes += sign
        owner.memory += sign * node_memory(path, node)
        if sign > 0:
            owner.note("nodes", owner.nodes)
            owner.note("memory", owner.memory)
        return 0

    def _fire_special(self, name, domid):
        node = self.tree.get(name)
        assert node is not None
        self.fire(name, Match.ANONYMOUS, [node.permissions])
        self.fire(f"{name}/{domid}", Match.NAMED, [node.permissions])
