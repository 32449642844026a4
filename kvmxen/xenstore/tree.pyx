"""The tree of nodes: a snapshot is O(1), and later changes cost only what they touch.

Each tree has an edit mark of its own and may change in place only the nodes that bear it. Any
other node is shared with a snapshot; the tree copies it, and the path down to it, before a change.
Taking a snapshot gives both trees new marks. So a change copies nothing if there is no snapshot,
and after a snapshot each directory on the path is copied once.
"""

from kvmxen.xenstore.children cimport Children
from kvmxen.xenstore.paths cimport names

from kvmxen.xenstore.permissions import DOM0, Permission

# Most nodes have no children and share this; nobody adds to it.
cdef Children _CHILDLESS = Children()


cdef class Node:
    """One node; read a node from a tree before that tree's next change.

    `generation` is that of the last change to the node or to its set of children, `altered` that
    of the last change to its value or permissions.
    """

    def __cinit__(self, bytes value, tuple permissions, generation, edit):
        self.value = value
        self.permissions = permissions
        self.generation = generation
        self.altered = generation
        self.born = generation
        self.children = _CHILDLESS
        self.edit = edit

    @property
    def owner(self):
        """The domain that the node counts against."""
        return self.permissions[0].domid

    @property
    def listing(self):
        """The children's names in the order of their creation, each followed by a NUL.

        `listing_size` is its length in bytes.
        """
        if self._listing is None:
            self._listing = b"".join([name.encode() + b"\0" for name in self.names])
        return self._listing

    @property
    def names(self):
        """The children's names in the order of their creation."""
        return [name for name, _ in self.children.items()]

    def items(self):
        """The children with their names, in the order of their creation."""
        return self.children.items()

    cdef Node copy(self, object edit):
        """A copy of this node, with children of its own, that `edit` may change."""
        cdef Node twin = Node(self.value, self.permissions, self.generation, edit)
        if self.children is not _CHILDLESS:
            twin.children = self.children.copy()
        twin.born = self.born
        twin.altered = self.altered
        twin.listing_size = self.listing_size
        twin._listing = self._listing
        return twin

    cdef int adopt(self, str name, Node child, unsigned long long generation) except -1:
        """Add the child `name`, or remove it if `child` is None, as of `generation`."""
        if child is None:
            self.children.remove(name, self.edit)
            self.listing_size -= len(name) + 1
        else:
            if self.children is _CHILDLESS:
                self.children = Children()
            self.children.put(name, child, self.edit)
            self.listing_size += len(name) + 1
        self.generation = generation
        self._listing = None
        return 0


cdef class Tree:
    """Nodes by canonical path. The nameless node on top holds the root and the special nodes."""

    def __cinit__(self):
        self._edit = object()
        self._top = Node(b"", (Permission(DOM0),), 0, self._edit)

    def snapshot(self):
        """A tree with the same content; later changes of either tree do not reach the other."""
        cdef Tree twin = Tree()
        twin._top = self._top
        self._edit = object()
        return twin

    cpdef Node get(self, str path):
        """The node at `path`, or None."""
        cdef Node node = self._top
        for name in names(path):
            node = <Node>node.children.get(name)
            if node is None:
                break
        return node

    cpdef Node put(self, str path, bytes value, tuple permissions, unsigned long long generation):
        """Give the node at `path` this content; create it if missing; its parent must exist.

        A new node changes its parent too. Returns the node.
        """
        cdef list above = names(path)
        cdef str name = above.pop()
        cdef Node parent = self._own(above)
        cdef Node node
        if parent.children.get(name) is not None:
            node = self._own_child(parent, name)
            node.value = value
            node.permissions = permissions
            node.generation = node.altered = generation
        else:
            node = Node(value, permissions, generation, self._edit)
            parent.adopt(name, node, generation)
        return node

    def remove(self, str path, unsigned long long generation):
        """Remove the node at `path`, which must exist, and all below it from its parent."""
        cdef list above = names(path)
        cdef str name = above.pop()
        self._own(above).adopt(name, None, generation)

    def graft(self, str path, Node node, unsigned long long generation):
        """Put a removed node back at `path`, with all below it."""
        cdef list above = names(path)
        cdef str name = above.pop()
        self._own(above).adopt(name, node, generation)

    def is_within(self, str path, int domid):
        """Whether domain `domid` owns all nodes above `path` but the root."""
        cdef Node node = self._top
        cdef list above = names(path)
        above.pop()
        for name in above:
            node = <Node>node.children.get(name)
            if name and node.owner != domid:
                return False
        return True

    def walk(self, path):
        """The nodes below `path` and itself, children before parents; nothing may change
        meanwhile."""
        node = self.get(path)
        pending = [] if node is None else [(path, node, False)]
        while pending:
            where, node, seen = pending.pop()
            children = [] if seen else node.items()
            if not children:
                yield where, node
                continue
            pending.append((where, node, True))
            base = where.rstrip("/")
            pending += [(f"{base}/{name}", child, False) for name, child in reversed(children)]

    cdef Node _own(self, list path):
        if self._top.edit is not self._edit:
            self._top = self._top.copy(self._edit)
        cdef Node node = self._top
        for name in path:
            node = self._own_child(node, name)
        return node

    cdef Node _own_child(self, Node parent, str name):
        cdef Node child = <Node>parent.children.get(name)
        if child.edit is not self._edit:
            child = child.copy(self._edit)
            parent.children.put(name, child, self._edit)
        return child
