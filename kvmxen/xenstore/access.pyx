"""A domain's access to the nodes, in the live store or in a transaction.

The meaning, even the order in which errors are detected, is that of tools/xenstored/core.c. Paths
are canonical; every method raises XenstoreError.
"""

from kvmxen.xenstore.paths cimport ancestry, parent
from kvmxen.xenstore.tree cimport Node

import errno

from kvmxen.xenstore.errors import XenstoreError
from kvmxen.xenstore.permissions import DOM0, OWNER, READ, WRITE
from kvmxen.xenstore.quota import node_size
from kvmxen.xenstore.watches import Match

cdef int _READ = READ
cdef int _WRITE = WRITE
cdef object _SUBTREE = Match.SUBTREE
cdef object _EXACT = Match.EXACT


cdef class Access:
    """The nodes of `view`, a View, with the rights of `domain`."""

    def __cinit__(self, view, domain):
        self._view = view
        self._domain = domain

    cpdef Node look(self, str path, int right=_READ):
        """The node at `path`; ENOENT, or EACCES if `domain` lacks a right of `right`."""
        cdef Node node = self._find(path, right)
        if node is None:
            raise XenstoreError(errno.ENOENT)
        return node

    def directory(self, str path):
        """The node at `path`, for its children; raises as look()."""
        cdef Node node = self.look(path)
        self._view.listed(path)
        return node

    def write(self, str path, bytes value):
        """Set a node's value; create the node, and those above it, if missing."""
        cdef Node node = self._find(path, _WRITE)
        if node is None:
            self._create(path, value)
        else:
            self._check_size(value, node.permissions, node.listing_size)
            if node.owner == self._domain.domid:
                self._check_memory(len(value) - len(node.value))
            self._view.put(path, value, node.permissions)
        self._view.changed(path, None)

    def mkdir(self, str path):
        """Create a node without a value, and those above it; an existing node stays."""
        if self._find(path, _WRITE) is None:
            self._create(path, b"")
            self._view.changed(path, None)

    def rm(self, str path):
        """Remove a node and all below it; ENOENT only if its parent is missing too."""
        if self._find(path, _WRITE) is None:
            if self._view.look(parent(path)) is None:
                raise XenstoreError(errno.ENOENT)
            return
        if path == "/":
            raise XenstoreError(errno.EINVAL)
        gone = {where: node.permissions for where, node in self._view.walk(path)}
        # The tree will change below the parent.
        held = self._view.get(parent(path)).permissions
        self._view.remove(path)
        for where, permissions in gone.items():
            match = _SUBTREE if where == path else _EXACT
            self._view.fire(where, match, [permissions, gone.get(parent(where), held)])

    def set_permissions(self, str path, tuple permissions):
        """Replace a node's permissions; the owner may, but only dom0 may change the owner."""
        if not permissions[0].valid:
            raise XenstoreError(errno.ENOENT)
        cdef Node node = self.look(path, WRITE | OWNER)
        if self._domain.domid != DOM0 and permissions[0].domid != node.owner:
            raise XenstoreError(errno.EPERM)
        self._check_size(node.value, permissions, node.listing_size)
        cdef tuple old = node.permissions
        self._view.put(path, node.value, permissions)
        self._view.changed(path, old)

    cdef Node _find(self, str path, int right):
        """The node at `path`, or None if there is none and `domain` may know that.

        A domain without rights to a node's closest ancestor does not learn whether the node exists
        (errno_from_parents()).
        """
        cdef Node node = self._view.look(path)
        if node is not None:
            if <int>self._domain.rights(node.permissions) & right != right:
                raise XenstoreError(errno.EACCES)
            return node
        if not <int>self._domain.rights(self._closest(path).permissions) & right:
            # If any of its ancestors existed, the answer could differ.
            for where in ancestry(path):
                if self._view.look(where) is not None:
                    break
            raise XenstoreError(errno.EACCES)
        return None

    cdef Node _closest(self, str path):
        cdef Node node = None
        while node is None:
            path = parent(path)
            node = self._view.get(path)
        return node

    cdef int _create(self, str path, bytes value) except -1:
        cdef list missing = []
        cdef Node above = None
        for where in ancestry(path):
            above = self._view.get(where)
            if above is not None:
                break
            missing.append(where)
        cdef tuple permissions = above.permissions
        domain = self._domain
        if domain.domid != DOM0:
            permissions = (permissions[0]._replace(domid=domain.domid), *permissions[1:])
        top = missing[-1]
        self._check_size(
            above.value, above.permissions, above.listing_size + len(top) - top.rfind("/")
        )
        self._check_size(value, permissions, 0)
        empty = node_size(b"", len(permissions), 0)
        self._check_memory(len(value) + sum([len(where) + empty for where in missing]))
        owned = self._view.nodes(domain.domid) + len(missing)
        if not domain.allows("nodes", owned):
            raise XenstoreError(errno.ENOSPC)
        for where in reversed(missing[1:]):
            self._view.imply(where, permissions)
        self._view.put(path, value, permissions)
        return 0

    cdef int _check_size(self, bytes value, tuple permissions, Py_ssize_t listing) except -1:
        if not self._domain.allows("node_size", node_size(value, len(permissions), listing)):
            raise XenstoreError(errno.ENOSPC)
        return 0

    cdef int _check_memory(self, Py_ssize_t more) except -1:
        domain = self._domain
        if more > 0 and not domain.allows("memory", domain.memory + more):
            raise XenstoreError(errno.ENOMEM)
        return 0
