"""Xenstore compared with a simple model: nodes, permissions, transactions and watches, at random.

A step is one request of one of three domains, over its connection. The model must give the same
answer, and cause the same events for everybody. KVMXEN_SEED explores other steps than CI's.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from random import Random

from kvmxen.xen.abi.xs_wire import Operation as Op
from kvmxen.xenstore.control import inconsistencies
from kvmxen.xenstore.permissions import Permission
from kvmxen.xenstore.store import Store
from tests.unit.xenstore.client import Client
from tests.unit.xenstore.model import ANYBODY, Model, Refused

HOME = "/local/domain/1"
PATHS = [
    "/", "/shared", "/shared/a", "/shared/a/b", "/shared/a/b/c", "/shared/d", "/private",
    "/private/x", HOME, f"{HOME}/a", f"{HOME}/a/b", f"{HOME}/a/b/c", f"{HOME}/d", f"{HOME}/d/e",
    "/local/domain/2/x", "/local/domain/2/x/y",
    "/shared/{0}", "/shared/{0}/{1}", "/shared/{0}/{1}/x", "/shared/{0}/m/{1}/y",
    "/shared/{0}/m/{1}",
]  # fmt: skip
PERMS = [
    ("n0",), ("b0",), ("r0",), ("w0",), ("n0", "r1"), ("n0", "b1", "r2"), ("r0", "n1", "w2"),
    ("n1",), ("r1",), ("b1", "n2"), ("n1", "b2"), ("w1", "r0"), ("n2",), ("b2", "r1"),
    ("n0", f"r{ANYBODY}"), ("n1", f"b{ANYBODY}"),
]  # fmt: skip
DOMAINS = (0, 0, 1, 2)
DEPTHS = (-1, -1, 0, 1, 2)
OPEN_AT_ONCE = 2
WHAT = [
    *["read"] * 3, *["write"] * 6, *["mkdir"] * 2, *["rm"] * 3, *["directory"] * 2, "get_perms",
    "set_perms", "watch", "unwatch", "start", *["end"] * 4,
]  # fmt: skip
STORES, REQUESTS = 100, 1000


class Xenstore:
    """The clients of three domains, two of them dom0's, and the model's clients."""

    def __init__(self) -> None:
        self.committed = 0
        self.log: list[tuple[object, ...]] = []
        self.store = Store()
        self.store.rm("/tool")
        for path, perms in (("/shared", "b0"), (HOME, "n1"), ("/local/domain/2", "n2")):
            self.store.mkdir(path)
            self.store.set_permissions(path, Permission.decode(perms.encode()))
        for domid in (1, 2):
            self.store.state.introduce(domid)
        self.model = Model(self.nodes())
        self.clients = [(Client(self.store.state, d), self.model.join(d)) for d in DOMAINS]
        self.who = self.where = self.tx = 0

    def nodes(self) -> dict[str, tuple[bytes, tuple[str, ...]]]:
        return {
            path: (node.value, tuple(perm.encode().decode() for perm in node.permissions))
            for path, node in self.store.state.walk("/")
        }

    def request(self, who: int, what: int, where: int, extra: int, which: int) -> None:
        """Make a request: by whom, of what kind, where, with what, and in which transaction."""
        # Usually the previous client continues, at the same place or nearby: much then happens
        # between a transaction's start and its end, and most transactions can be committed.
        if which % 8 == 0:
            self.who, self.tx = who % len(DOMAINS), 0
        client, twin = self.clients[self.who]
        self.where = (self.where + where % 4 if where % 2 else where) % len(PATHS)
        path = PATHS[self.where].format(extra % 8, f"{self.who}{self.tx % 4}")
        home = f"/local/domain/{twin.domid}/"
        relative = bool(where & 128) and path.startswith(home)
        text = (path.removeprefix(home) if relative else path).encode() + b"\0"
        if which % 8 == 0 and twin.transactions:
            self.tx = [0, *twin.transactions][which // 8 % (1 + len(twin.transactions))]
        tx = self.tx
        view = twin.transactions[tx] if tx else self.model.live
        token = b"%d\0" % (extra % 2)
        ask: Callable[[], bytes | str]
        asked = WHAT[what % len(WHAT)] if tx or what % 4 == 0 else "start"
        self.log.append((twin.domid, asked, text, extra, tx))
        match asked:
            case "read":
                ask = lambda: client.ask(Op.READ, text, tx)  # noqa: E731
                self.compare(ask, lambda: self.model.ask(twin, view, "read", path))
            case "write":
                value = bytes([extra]) * (extra % 4)
                ask = lambda: client.ask(Op.WRITE, text + value, tx)  # noqa: E731
                self.compare(ask, lambda: self.model.ask(twin, view, "write", path, value))
            case "mkdir":
                ask = lambda: client.ask(Op.MKDIR, text, tx)  # noqa: E731
                self.compare(ask, lambda: self.model.ask(twin, view, "mkdir", path))
            case "rm":
                ask = lambda: client.ask(Op.RM, text, tx)  # noqa: E731
                self.compare(ask, lambda: self.model.ask(twin, view, "rm", path))
            case "directory":
                ask = lambda: client.ask(Op.DIRECTORY, text, tx)  # noqa: E731
                self.compare(ask, lambda: self.model.ask(twin, view, "directory", path))
            case "get_perms":
                ask = lambda: client.ask(Op.GET_PERMS, text, tx)  # noqa: E731
                self.compare(ask, lambda: self.model.ask(twin, view, "get_perms", path))
            case "set_perms":
                perms = PERMS[extra % len(PERMS)]
                wire = "".join(perm + "\0" for perm in perms).encode()
                ask = lambda: client.ask(Op.SET_PERMS, text + wire, tx)  # noqa: E731
                self.compare(ask, lambda: self.model.ask(twin, view, "set_perms", path, perms))
            case "watch":
                depth = DEPTHS[extra // 2 % len(DEPTHS)]
                level = b"" if depth < 0 else b"%d\0" % depth
                prefix = len(home) if relative else 0
                ask = lambda: client.ask(Op.WATCH, text + token + level, tx)  # noqa: E731
                self.compare(ask, lambda: self.model.watch(twin, path, token[:-1], depth, prefix))
            case "unwatch":
                ask = lambda: client.ask(Op.UNWATCH, text + token, tx)  # noqa: E731
                self.compare(ask, lambda: self.model.unwatch(twin, path, token[:-1]))
            case "start" if len(twin.transactions) < OPEN_AT_ONCE:
                self.tx = client.start()
                self.model.start(twin, self.tx)
            case "end" if tx:
                self.tx = 0
                commit = extra % 4 > 0
                word = b"T\0" if commit else b"F\0"
                ask = lambda: client.ask(Op.TRANSACTION_END, word, tx)  # noqa: E731
                if self.compare(ask, lambda: self.model.end(twin, tx, commit)) == b"OK\0":
                    self.committed += commit and len(view.requests) > 2
            case "end" if extra == 0:
                self.tx = 0
                ask = lambda: client.ask(Op.RESET_WATCHES, b"\0")  # noqa: E731
                self.compare(ask, lambda: self.model.reset(twin))

    def compare(self, ask: Callable[[], bytes | str], expect: Callable[[], object]) -> object:
        answer: object = ask()
        try:
            expected = expect()
        except Refused as refused:
            expected = str(refused)
        if isinstance(answer, bytes) and isinstance(expected, set):
            assert answer.count(b"\0") == len(expected)
            answer = set(answer.decode().split("\0")[:-1])
        elif isinstance(answer, bytes) and isinstance(expected, tuple):
            answer = tuple(answer.decode().split("\0")[:-1])
        assert answer == (b"OK\0" if expected is None else expected), self.log[-20:]
        for client, twin in self.clients:
            assert sorted(client.drain()) == sorted(twin.events)
            twin.events.clear()
        return answer

    def the_nodes_are_the_model_s(self) -> None:
        model = {path: (node.value, node.perms) for path, node in self.model.live.nodes.items()}
        assert self.nodes() == model

    def the_accounts_are_right(self) -> None:
        assert inconsistencies(self.store.state) == []
        for domid in DOMAINS:
            domain = self.store.state.domain(domid)
            twins = [twin for _, twin in self.clients if twin.domid == domid]
            assert domain.watches == sum(len(twin.watches) for twin in twins)
            assert domain.transactions == sum(len(twin.transactions) for twin in twins)


def test_a_hundred_thousand_steps() -> None:
    random = Random(os.environ.get("KVMXEN_SEED", "xenstore"))
    committed = 0
    for _ in range(STORES):
        xenstore = Xenstore()
        for _ in range(REQUESTS):
            xenstore.request(*random.randbytes(5))
        xenstore.the_nodes_are_the_model_s()
        xenstore.the_accounts_are_right()
        committed += xenstore.committed
    assert committed > STORES
