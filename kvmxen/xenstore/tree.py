"""The tree of nodes: a snapshot is O(1), and what follows costs what it touches.

Each tree has an edit mark of its own and may change in place only the nodes that bear it;
any other node is shared with a snapshot and is copied, with the way down to it, before the
change. Taking a snapshot gives both trees new marks. So with no snapshot about, a change
copies nothing, and after one, each directory on the way is copied once.
"""

from __future__ import annotations

from collections.abc import Iterator

from kvmxen.xenstore.paths import names
from kvmxen.xenstore.permissions import DOM0, Permission, Permissions


class Node:
    """One node; what a tree hands out is to be read before that tree's next change.

    `generation` is that of the last change to it or to which children it has, `altered` that of
    the last change to its value or permissions.
    """

    __slots__ = (
        "_listing",
        "altered",
        "children",
        "edit",
        "generation",
        "listing_size",
        "permissions",
        "value",
    )

    def __init__(
        self,
        value: bytes,
        permissions: Permissions,
        generation: int,
        children: dict[str, Node],
        edit: object,
    ) -> None:
        self.value = value
        self.permissions = permissions
        self.generation = generation
        self.altered = generation
        self.children = children
        self.edit = edit
        self.listing_size = 0
        self._listing: bytes | None = None

    @property
    def owner(self) -> int:
        """The domain that the node counts against."""
        return self.permissions[0].domid

    @property
    def listing(self) -> bytes:
        """The children's names in the order of their making, each with a NUL after it.

        `listing_size` is its length in bytes.
        """
        if self._listing is None:
            self._listing = b"".join([name.encode() + b"\0" for name in self.children])
        return self._listing

    def copy(self, edit: object) -> Node:
        """A node like this one, with children of its own, that `edit` may change."""
        twin = Node(self.value, self.permissions, self.generation, self.children.copy(), edit)
        twin.altered = self.altered
        twin.listing_size = self.listing_size
        twin._listing = self._listing
        return twin

    def adopt(self, name: str, child: Node | None, generation: int) -> None:
        """Add the child `name`, or with None take it away, as of `generation`."""
        if child is None:
            del self.children[name]
            self.listing_size -= len(name) + 1
        else:
            self.children[name] = child
            self.listing_size += len(name) + 1
        self.generation = generation
        self._listing = None


class Tree:
    """Nodes by canonical path. The nameless node on top holds the root and the special nodes."""

    def __init__(self) -> None:
        self._edit = object()
        self._top = Node(b"", (Permission(DOM0),), 0, {}, self._edit)

    def snapshot(self) -> Tree:
        """Another tree with the same content, which neither tree's later changes reach."""
        twin = Tree()
        twin._top = self._top
        self._edit = object()
        return twin

    def get(self, path: str) -> Node | None:
        """The node at `path`, None where there is none."""
        node: Node | None = self._top
        for name in names(path):
            node = node.children.get(name)  # type: ignore[union-attr]
            if node is None:
                break
        return node

    def put(self, path: str, value: bytes, permissions: Permissions, generation: int) -> Node:
        """Give the node at `path` this content; make it where its parent, which must be, is.

        A new node changes its parent too. Returns the node.
        """
        *above, name = names(path)
        parent = self._own(above)
        if name in parent.children:
            node = self._own_child(parent, name)
            node.value, node.permissions = value, permissions
            node.generation = node.altered = generation
        else:
            node = Node(value, permissions, generation, {}, self._edit)
            parent.adopt(name, node, generation)
        return node

    def remove(self, path: str, generation: int) -> None:
        """Take the node at `path`, which must be, and all below it out of its parent."""
        *above, name = names(path)
        self._own(above).adopt(name, None, generation)

    def walk(self, path: str) -> Iterator[tuple[str, Node]]:
        """The nodes below `path` and itself, children before parents; nothing may change."""
        node = self.get(path)
        pending = [] if node is None else [(path, node, False)]
        while pending:
            where, node, seen = pending.pop()
            if seen or not node.children:
                yield where, node
                continue
            pending.append((where, node, True))
            base = where.rstrip("/")
            pending += [(f"{base}/{k}", c, False) for k, c in reversed(node.children.items())]

    def _own(self, above: list[str]) -> Node:
        if self._top.edit is not self._edit:
            self._top = self._top.copy(self._edit)
        node = self._top
        for name in above:
            node = self._own_child(node, name)
        return node

    def _own_child(self, parent: Node, name: str) -> Node:
        child = parent.children[name]
        if child.edit is not self._edit:
            child = parent.children[name] = child.copy(self._edit)
        return child
