"""Xenstore against a simple model of it: nodes, permissions, transactions and watches, at random.

A step is one request of one of three domains, over its connection. Its answer, and the events
that it causes for everybody, must be the model's. KVMXEN_SEED explores other steps than CI's.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from kvmxen.abi.xs_wire import Operation as Op
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
]  # fmt: skip
PERMS = [
    ("n0",), ("b0",), ("r0",), ("w0",), ("n0", "r1"), ("n0", "b1", "r2"), ("r0", "n1", "w2"),
    ("n1",), ("r1",), ("b1", "n2"), ("n1", "b2"), ("w1", "r0"), ("n2",), ("b2", "r1"),
    ("n0", f"r{ANYBODY}"), ("n1", f"b{ANYBODY}"),
]  # fmt: skip
DEPTHS = (-1, -1, 0, 1, 2)
OPEN_AT_ONCE = 3
REQUESTS = 50  # in one program
BYTES = 5  # for each request


class Xenstore(RuleBasedStateMachine):
    """Three domains' clients, and the model's of the same."""

    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.store.rm("/tool")
        for path, perms in (("/shared", "b0"), (HOME, "n1"), ("/local/domain/2", "n2")):
            self.store.mkdir(path)
            self.store.set_permissions(path, Permission.decode(perms.encode()))
        for domid in (1, 2):
            self.store.introduce(domid)
        self.model = Model(self.nodes())
        self.clients = [(Client(self.store, d), self.model.join(d)) for d in (0, 1, 2)]

    def nodes(self) -> dict[str, tuple[bytes, tuple[str, ...]]]:
        return {
            path: (node.value, tuple(perm.encode().decode() for perm in node.permissions))
            for path, node in self.store.walk("/")
        }

    @rule(program=st.binary(min_size=REQUESTS * BYTES, max_size=REQUESTS * BYTES))
    def run(self, program: bytes) -> None:
        """Each request is five bytes: who, what, where, with what, and in which transaction."""
        for at in range(0, len(program), BYTES):
            self.request(*program[at : at + BYTES])

    def request(self, who: int, what: int, where: int, extra: int, which: int) -> None:
        Xenstore.steps += 1
        client, twin = self.clients[who % 3]
        path = PATHS[where % len(PATHS)]
        home = f"/local/domain/{twin.domid}/"
        relative = bool(where & 128) and path.startswith(home)
        text = (path.removeprefix(home) if relative else path).encode() + b"\0"
        # Half of the requests are outside of transactions.
        tx = ([0] * len(twin.transactions) + list(twin.transactions) or [0])[
            which % (2 * len(twin.transactions) or 1)
        ]
        view = twin.transactions[tx] if tx else self.model.live
        token = b"%d\0" % (extra % 2)
        ask: Callable[[], bytes | str]
        match what % 20:
            case 0 | 1 | 2:
                ask = lambda: client.ask(Op.READ, text, tx)  # noqa: E731
                self.compare(ask, lambda: self.model.read(twin, view, path))
            case 3 | 4 | 5 | 6:
                value = bytes([extra]) * (extra % 4)
                ask = lambda: client.ask(Op.WRITE, text + value, tx)  # noqa: E731
                self.compare(ask, lambda: self.model.write(twin, view, path, value))
            case 7 | 8:
                ask = lambda: client.ask(Op.MKDIR, text, tx)  # noqa: E731
                self.compare(ask, lambda: self.model.mkdir(twin, view, path))
            case 9:
                ask = lambda: client.ask(Op.RM, text, tx)  # noqa: E731
                self.compare(ask, lambda: self.model.rm(twin, view, path))
            case 10 | 11:
                ask = lambda: client.ask(Op.DIRECTORY, text, tx)  # noqa: E731
                self.compare(ask, lambda: self.model.directory(twin, view, path))
            case 12:
                ask = lambda: client.ask(Op.GET_PERMS, text, tx)  # noqa: E731
                self.compare(ask, lambda: self.model.get_perms(twin, view, path))
            case 13 | 14:
                perms = PERMS[extra % len(PERMS)]
                wire = "".join(perm + "\0" for perm in perms).encode()
                ask = lambda: client.ask(Op.SET_PERMS, text + wire, tx)  # noqa: E731
                self.compare(ask, lambda: self.model.set_perms(twin, view, path, perms))
            case 15:
                depth = DEPTHS[extra // 2 % len(DEPTHS)]
                level = b"" if depth < 0 else b"%d\0" % depth
                prefix = len(home) if relative else 0
                ask = lambda: client.ask(Op.WATCH, text + token + level, tx)  # noqa: E731
                self.compare(ask, lambda: self.model.watch(twin, path, token[:-1], depth, prefix))
            case 16:
                ask = lambda: client.ask(Op.UNWATCH, text + token, tx)  # noqa: E731
                self.compare(ask, lambda: self.model.unwatch(twin, path, token[:-1]))
            case 17 if len(twin.transactions) < OPEN_AT_ONCE:
                self.model.start(twin, client.start())
            case 18 | 19 if tx:
                commit = extra % 4 > 0
                word = b"T\0" if commit else b"F\0"
                ask = lambda: client.ask(Op.TRANSACTION_END, word, tx)  # noqa: E731
                self.compare(ask, lambda: self.model.end(twin, tx, commit))
            case 19 if which == 0:
                ask = lambda: client.ask(Op.RESET_WATCHES, b"\0")  # noqa: E731
                self.compare(ask, lambda: self.model.reset(twin))

    def compare(self, ask: Callable[[], bytes | str], expect: Callable[[], object]) -> None:
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
        assert answer == (b"OK\0" if expected is None else expected)
        for client, twin in self.clients:
            assert sorted(client.drain()) == sorted(twin.events)
            twin.events.clear()

    @invariant()
    def the_nodes_are_the_model_s(self) -> None:
        model = {path: (node.value, node.perms) for path, node in self.model.live.nodes.items()}
        assert self.nodes() == model

    @invariant()
    def the_accounts_are_right(self) -> None:
        assert inconsistencies(self.store) == []
        for client, twin in self.clients:
            domain = client.connection.domain
            assert domain.watches == len(twin.watches)
            assert domain.transactions == len(twin.transactions)


def test_a_hundred_thousand_steps() -> None:
    chosen = os.environ.get("KVMXEN_SEED")
    if chosen is not None:
        seed(int(chosen))(Xenstore)
    Xenstore.steps = 0
    run_state_machine_as_test(
        Xenstore,
        settings=settings(
            max_examples=140,
            stateful_step_count=20,
            deadline=None,
            database=None,
            derandomize=chosen is None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert Xenstore.steps >= 100_000
