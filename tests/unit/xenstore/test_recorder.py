"""A change that cannot be kept never happened: a store whose recorder fails at random equals
one without those requests.
"""

from __future__ import annotations

import errno
from random import Random

import pytest

from kvmxen.xen.abi.xs_wire import Operation as Op
from kvmxen.xenstore.control import inconsistencies
from kvmxen.xenstore.errors import XenstoreError
from kvmxen.xenstore.permissions import Permission, Permissions
from kvmxen.xenstore.store import Store
from kvmxen.xenstore.tree import Node
from tests.unit.xenstore.client import Client

PATHS = [b"/t", b"/t/a", b"/t/a/b", b"/t/a/b/c", b"/t/d", b"/t/d/e", b"/t/f/g/h"]
Contents = dict[str, tuple[bytes, Permissions]]


class Unreliable:
    """A recorder that can keep changes only while `works` is set."""

    def __init__(self) -> None:
        self.works = True
        self.noted = 0

    def note(self, path: str, before: Node | None, value: bytes, permissions: Permissions) -> None:
        self.noted += 1

    def commit(self) -> None:
        noted, self.noted = self.noted, 0
        if noted and not self.works:
            raise XenstoreError(errno.ENOSPC)


def contents(store: Store) -> Contents:
    return {path: (node.value, node.permissions) for path, node in store.state.walk("/")}


def made(random: Random) -> tuple[Op, bytes]:
    path = random.choice(PATHS) + b"\0"
    match random.choice((Op.WRITE, Op.WRITE, Op.MKDIR, Op.RM, Op.SET_PERMS)):
        case Op.WRITE:
            return Op.WRITE, path + random.randbytes(2)
        case Op.SET_PERMS:
            return Op.SET_PERMS, path + random.choice((b"n0\0", b"n1\0", b"b0\0r1\0"))
        case operation:
            return operation, path


@pytest.mark.parametrize("seed", range(20))
def test_it_is_as_if_it_had_not_been_asked(seed: int) -> None:
    random, refused = Random(seed), 0
    store, twin = Store(), Store()
    recorder = store.state.recorder = Unreliable()
    clients = [Client(each.state, 0) for each in (store, twin)]
    for each in (store, twin):
        each.state.introduce(1)
    for _ in range(300):
        in_transaction = random.random() < 0.3
        asked = [made(random) for _ in range(random.randrange(1, 4) if in_transaction else 1)]
        recorder.works = random.random() < 0.5
        before = contents(store)
        answer = ask(clients[0], asked, in_transaction)
        if answer == "ENOSPC":
            refused += 1
            assert contents(store) == before
        else:
            assert ask(clients[1], asked, in_transaction) == answer
        assert contents(store) == contents(twin)
        assert inconsistencies(store.state) == []
        assert {d.domid: (d.nodes, d.memory) for d in store.state.domains.values()} == {
            d.domid: (d.nodes, d.memory) for d in twin.state.domains.values()
        }
    assert refused > 20


def ask(client: Client, asked: list[tuple[Op, bytes]], in_transaction: bool) -> bytes | str:
    """The answer to the request, or to the end of a transaction with all of them."""
    if not in_transaction:
        return client.ask(*asked[0])
    tx = client.start()
    for request in asked:
        client.ask(*request, tx)
    return client.ask(Op.TRANSACTION_END, b"T\0", tx)


def test_the_end_of_a_domain_is_not_refused() -> None:
    """Kept nodes lose the domain's own when they are used again, so there is nothing to keep."""
    store = Store()
    store.state.introduce(1)
    store.write("/own", b"")
    store.set_permissions("/own", Permission(1))
    store.write("/shared", b"")
    store.set_permissions("/shared", Permission(0), Permission(1))
    recorder = store.state.recorder = Unreliable()
    recorder.works = False
    store.state.release(1)
    assert not store.exists("/own")
    assert store.permissions("/shared") == (Permission(0),)
    with pytest.raises(XenstoreError):
        store.write("/x", b"")
    assert not store.exists("/x")
