"""What xenstore is to do, as simply as it can be said: a model to compare the real one with.

It knows nothing of the product: nodes are a dict that each transaction copies whole, and each
rule is as docs/misc/xenstore.txt and tools/xenstored have it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

ANYBODY = 32757
R, W, OWNER = 1, 2, 4
LETTERS = {"n": 0, "r": R, "w": W, "b": R | W}


class Refused(Exception):
    """The name of the error is the text."""


@dataclass
class Node:
    """`changed` and `listed` are the times of the last change to it, and to its children."""

    value: bytes
    perms: tuple[str, ...]
    changed: int
    listed: int


@dataclass
class Watch:
    path: str
    token: bytes
    depth: int
    prefix: int


@dataclass
class View:
    """The live store, or a transaction's copy of it with what it did there."""

    nodes: dict[str, Node]
    touched: dict[str, Node | None] = field(default_factory=dict)
    listed: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    implied: set[str] = field(default_factory=set)
    events: dict[str, bool] = field(default_factory=dict)
    is_live: bool = False


@dataclass
class Client:
    domid: int
    watches: list[Watch] = field(default_factory=list)
    events: list[tuple[bytes, bytes]] = field(default_factory=list)
    transactions: dict[int, View] = field(default_factory=dict)


def above(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def below(path: str, top: str) -> bool:
    return path == top or path.startswith(top.rstrip("/") + "/")


def depth(path: str) -> int:
    return 0 if path == "/" else path.count("/")


def rights(domid: int, perms: tuple[str, ...]) -> int:
    owner, *others = [(LETTERS[perm[0]], int(perm[1:])) for perm in perms]
    if domid in (0, owner[1]) or owner[1] == ANYBODY:
        return R | W | OWNER
    for access, who in others:
        if who in (domid, ANYBODY):
            return access
    return owner[0]


class Model:
    def __init__(self, nodes: dict[str, tuple[bytes, tuple[str, ...]]]) -> None:
        self.time = 0
        self.live = View({p: Node(*node, 0, 0) for p, node in nodes.items()}, is_live=True)
        self.clients: list[Client] = []

    def join(self, domid: int) -> Client:
        self.clients.append(Client(domid))
        return self.clients[-1]

    # What a client may ask for. `view` is the live store or one of its transactions.

    def read(self, client: Client, view: View, path: str) -> bytes:
        return self._look(client, view, path, R).value

    def directory(self, client: Client, view: View, path: str) -> set[str]:
        self._look(client, view, path, R)
        view.listed.add(path)
        return {p.rpartition("/")[2] for p in view.nodes if self._is_child(p, path)}

    def get_perms(self, client: Client, view: View, path: str) -> tuple[str, ...]:
        return self._look(client, view, path, R).perms

    def write(self, client: Client, view: View, path: str, value: bytes) -> None:
        node = self._find(client, view, path, W)
        if node is None:
            self._make(client, view, path, value)
        else:
            self._set(view, path, value, node.perms)
        self._tell(view, path, None)

    def mkdir(self, client: Client, view: View, path: str) -> None:
        if self._find(client, view, path, W) is None:
            self._make(client, view, path, b"")
            self._tell(view, path, None)

    def rm(self, client: Client, view: View, path: str) -> None:
        if self._find(client, view, path, W) is None:
            if self._touch(view, above(path)) is None:
                raise Refused("ENOENT")
            return
        if path == "/":
            raise Refused("EINVAL")
        self._touch(view, above(path))
        for gone in [p for p in view.nodes if below(p, path)]:
            self._touch(view, gone)
            view.listed.add(gone)
            view.changed.add(gone)
            view.implied.discard(gone)
            self._event(view, gone, gone == path)
        self._drop(view, path)

    def set_perms(self, client: Client, view: View, path: str, perms: tuple[str, ...]) -> None:
        node = self._look(client, view, path, W | OWNER)
        if client.domid and int(perms[0][1:]) != int(node.perms[0][1:]):
            raise Refused("EPERM")
        old = node.perms
        self._set(view, path, node.value, perms)
        self._tell(view, path, old)

    def watch(self, client: Client, path: str, token: bytes, depth: int, prefix: int) -> None:
        if any((w.path, w.token) == (path, token) for w in client.watches):
            raise Refused("EEXIST")
        client.watches.append(Watch(path, token, depth, prefix))
        client.events.append((path[prefix:].encode(), token))

    def unwatch(self, client: Client, path: str, token: bytes) -> None:
        kept = [w for w in client.watches if (w.path, w.token) != (path, token)]
        if len(kept) == len(client.watches):
            raise Refused("ENOENT")
        client.watches = kept

    def reset(self, client: Client) -> None:
        client.watches.clear()
        client.transactions.clear()

    def start(self, client: Client, number: int) -> None:
        copies = {p: Node(**vars(node)) for p, node in self.live.nodes.items()}
        client.transactions[number] = View(copies)

    def end(self, client: Client, number: int, commit: bool) -> None:
        view = client.transactions.pop(number)
        if not commit:
            return
        for path, was in view.touched.items():
            now = self.live.nodes.get(path)
            if now and path in view.implied and now.perms == view.nodes[path].perms:
                view.changed.discard(path)
                continue
            if (was and was.changed) != (now and now.changed):
                raise Refused("EAGAIN")
            if was and now and path in view.listed and was.listed != now.listed:
                raise Refused("EAGAIN")
        for path in sorted(view.changed, key=depth):
            if node := view.nodes.get(path):
                self._set(self.live, path, node.value, node.perms)
            elif path in self.live.nodes:
                self._drop(self.live, path)
        for path, subtree in view.events.items():
            was = view.touched[path]
            readable = [was.perms] if was else []
            if path in self.live.nodes:
                readable += [self.live.nodes[p].perms for p in (path, above(path))]
            self._send(path, subtree, readable)

    # How that is done.

    def _touch(self, view: View, path: str) -> Node | None:
        node = view.nodes.get(path)
        if path not in view.touched:
            view.touched[path] = Node(**vars(node)) if node else None
        return node

    def _find(self, client: Client, view: View, path: str, right: int) -> Node | None:
        view.implied.discard(path)
        node = found = self._touch(view, path)
        while found is None:
            path = above(path)
            found = self._touch(view, path)
        having = rights(client.domid, found.perms) & right
        if having != right if node else not having:
            raise Refused("EACCES")
        return node

    def _look(self, client: Client, view: View, path: str, right: int) -> Node:
        node = self._find(client, view, path, right)
        if node is None:
            raise Refused("ENOENT")
        return node

    def _make(self, client: Client, view: View, path: str, value: bytes) -> None:
        missing = [path]
        while above(missing[-1]) not in view.nodes:
            missing.append(above(missing[-1]))
        perms = view.nodes[above(missing[-1])].perms
        if client.domid:
            perms = (f"{perms[0][0]}{client.domid}", *perms[1:])
        for where in reversed(missing):
            self._set(view, where, value if where == path else b"", perms)
            if where != path:
                view.implied.add(where)

    def _set(self, view: View, path: str, value: bytes, perms: tuple[str, ...]) -> None:
        self.time += 1
        self._touch(view, path)
        view.changed.add(path)
        node = view.nodes.get(path)
        if node is None:
            self._touch(view, above(path))
            view.nodes[above(path)].listed = self.time
            view.nodes[path] = Node(value, perms, self.time, self.time)
        else:
            node.value, node.perms = value, perms
            node.changed = node.listed = self.time

    def _drop(self, view: View, path: str) -> None:
        self.time += 1
        for gone in [p for p in view.nodes if below(p, path)]:
            del view.nodes[gone]
        view.nodes[above(path)].listed = self.time

    def _is_child(self, path: str, parent: str) -> bool:
        return path != "/" and path[0] == "/" and above(path) == parent

    def _tell(self, view: View, path: str, old: tuple[str, ...] | None) -> None:
        if view.is_live:
            readable = [view.nodes[p].perms for p in (path, above(path))]
            self._send(path, True, readable + ([old] if old else []))
        else:
            view.events[path] = True

    def _event(self, view: View, path: str, subtree: bool) -> None:
        """Of the removal of `path`, before it happens."""
        if view.is_live:
            self._send(path, subtree, [view.nodes[p].perms for p in (path, above(path))])
        else:
            view.events[path] = subtree or view.events.get(path, False)

    def _send(self, path: str, subtree: bool, readable: list[tuple[str, ...]]) -> None:
        for client in self.clients:
            if not any(rights(client.domid, perms) & R for perms in readable):
                continue
            for watch in client.watches:
                levels = depth(path) - depth(watch.path)
                reaches = watch.depth < 0 or levels <= watch.depth
                event = (path[watch.prefix :].encode(), watch.token)
                # While one waits to be read, another like it would say nothing new.
                if event in client.events:
                    continue
                if path == watch.path or (subtree and below(path, watch.path) and reaches):
                    client.events.append(event)
