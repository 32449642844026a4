"""A model of xenstore, as simple as possible, to compare the real one with.

It shares nothing with the product. Nodes are a dict that each transaction copies whole, and each
rule is that of docs/misc/xenstore.txt and tools/xenstored. The meaning of a transaction comes from
the former alone: its requests, executed at the moment of its commit without any others in between,
get the same answers and leave what the commit leaves. The model checks that at each commit.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

ANYBODY = 32757
R, W, OWNER = 1, 2, 4
LETTERS = {"n": 0, "r": R, "w": W, "b": R | W}


class Refused(Exception):
    """The name of the error is the text."""


@dataclass
class Node:
    """`changed` and `listed` are the times of the last change to the node and to its children."""

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
    """The live store, or a transaction's copy of it with its record.

    `before` are the nodes at its beginning, `requests` its requests since and their answers.
    `touched` are the paths that any of that depends on, in order; `told` those of which the client
    learned something; `on_the_way` those created for one below.
    """

    nodes: dict[str, Node]
    before: dict[str, Node] = field(default_factory=dict)
    requests: list[tuple[str, tuple[Any, ...], object]] = field(default_factory=list)
    touched: dict[str, None] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)
    listed: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    on_the_way: set[str] = field(default_factory=set)
    events: dict[str, bool] = field(default_factory=dict)
    is_live: bool = False

    @property
    def anybody_s(self) -> set[str]:
        """The nodes that the transaction created and that might as well have existed."""
        return self.on_the_way - self.told - self.removed - self.before.keys()


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


def contents(view: View) -> dict[str, tuple[bytes, tuple[str, ...]]]:
    return {path: (node.value, node.perms) for path, node in view.nodes.items()}


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

    def ask(self, client: Client, view: View, what: str, *arguments: Any) -> object:
        """The answer to a request, one of the methods below; raises Refused.

        `view` is the live store or one of the client's transactions.
        """
        answer = self._answer(client, view, what, arguments)
        view.requests.append((what, arguments, answer))
        if isinstance(answer, Refused):
            raise answer
        return answer

    # The requests of a client.

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
            view.told.add(above(path))
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
            view.removed.add(gone)
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
        client.transactions[number] = View(self._copy(), before=self._copy())

    def end(self, client: Client, number: int, commit: bool) -> None:
        view = client.transactions.pop(number)
        if not commit:
            return
        there = {
            path
            for path in view.anybody_s & self.live.nodes.keys()
            if self.live.nodes[path].perms == view.nodes[path].perms
        }
        for path in view.touched.keys() - there:
            was, now = view.before.get(path), self.live.nodes.get(path)
            if (was and was.changed) != (now and now.changed):
                raise Refused("EAGAIN")
            if was and now and path in view.listed and was.listed != now.listed:
                raise Refused("EAGAIN")
        outcome = self._again(client, view)
        for path in sorted(view.changed - there, key=depth):
            if node := view.nodes.get(path):
                self._set(self.live, path, node.value, node.perms)
            elif path in self.live.nodes:
                self._drop(self.live, path)
        assert contents(self.live) == contents(outcome)
        for path, subtree in view.events.items():
            was = view.before.get(path)
            readable = [was.perms] if was else []
            if path in self.live.nodes:
                readable += [self.live.nodes[p].perms for p in (path, above(path))]
            self._send(path, subtree, readable)

    # Their implementation.

    def _answer(self, client: Client, view: View, what: str, arguments: tuple[Any, ...]) -> object:
        try:
            return getattr(self, what)(client, view, *arguments)
        except Refused as refused:
            return refused

    def _again(self, client: Client, view: View) -> View:
        """The store as it would be if the transaction's requests were made now."""
        fresh = View(self._copy())
        for what, arguments, answer in view.requests:
            now = self._answer(client, fresh, what, arguments)
            assert repr(now) == repr(answer), f"{what} {arguments}: {answer}, then {now}"
        return fresh

    def _copy(self) -> dict[str, Node]:
        return {path: replace(node) for path, node in self.live.nodes.items()}

    def _touch(self, view: View, path: str) -> Node | None:
        view.touched[path] = None
        return view.nodes.get(path)

    def _find(self, client: Client, view: View, path: str, right: int) -> Node | None:
        view.told.add(path)
        way = [path]
        node = found = self._touch(view, path)
        while found is None:
            way.append(above(way[-1]))
            found = self._touch(view, way[-1])
        having = rights(client.domid, found.perms) & right
        if having != right if node else not having:
            view.told.update(way)
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
                view.on_the_way.add(where)

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
        """Record the removal of `path`, before it happens."""
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
                # While an event waits to be read, an equal one adds nothing.
                if event in client.events:
                    continue
                if path == watch.path or (subtree and below(path, watch.path) and reaches):
                    client.events.append(event)
