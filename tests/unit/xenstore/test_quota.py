"""The limits of one guest, alone and in transactions, and that it gets resources back."""

from __future__ import annotations

from kvmxen.xen.abi.xs_wire import Operation as Op
from kvmxen.xenstore.permissions import READ, Permission
from kvmxen.xenstore.quota import Quota
from kvmxen.xenstore.store import Store
from tests.unit.xenstore.client import Client

OK = b"OK\0"


def small(**limits: int) -> tuple[Store, Client]:
    store = Store(Quota(**limits))
    store.mkdir("/local/domain/1")
    store.set_permissions("/local/domain/1", Permission(1))
    return store, Client(store.state, 1)


def test_xen_s_defaults() -> None:
    assert Quota() == Quota(
        nodes=1000,
        watches=128,
        node_size=2048,
        transactions=10,
        node_permissions=5,
        transaction_nodes=1024,
        outstanding=20,
        memory=2621440,
        soft_memory=2097152,
        path_max=2048,
    )


def test_nodes() -> None:
    store, guest = small(nodes=4)
    assert guest.ask(Op.WRITE, b"a/b\0") == OK
    assert guest.ask(Op.WRITE, b"c/d\0") == "ENOSPC"
    assert store.state.get("/local/domain/1/c") is None
    assert guest.ask(Op.MKDIR, b"c\0") == OK
    assert guest.ask(Op.MKDIR, b"d\0") == "ENOSPC"
    assert guest.ask(Op.WRITE, b"c\0still") == OK
    assert guest.ask(Op.RM, b"a\0") == OK
    assert guest.ask(Op.WRITE, b"c/d\0") == OK
    assert store.state.domain(1).nodes == 3


def test_nodes_in_a_transaction() -> None:
    store, guest = small(nodes=3)
    tx = guest.start()
    assert guest.ask(Op.MKDIR, b"a\0", tx) == OK
    assert guest.ask(Op.RM, b"a\0", tx) == OK
    assert guest.ask(Op.MKDIR, b"b/c\0", tx) == OK
    assert guest.ask(Op.MKDIR, b"d\0", tx) == "ENOSPC"
    assert guest.ask(Op.TRANSACTION_END, b"T\0", tx) == "ENOMEM"
    assert store.state.domain(1).nodes == 1


def test_nodes_in_two_transactions_that_each_would_fit() -> None:
    store, guest = small(nodes=4)
    guest.ask(Op.MKDIR, b"x\0")
    guest.ask(Op.MKDIR, b"y\0")
    one, two = guest.start(), guest.start()
    assert guest.ask(Op.MKDIR, b"x/1\0", one) == OK
    assert guest.ask(Op.MKDIR, b"y/1\0", two) == OK
    assert guest.ask(Op.TRANSACTION_END, b"T\0", one) == OK
    assert guest.ask(Op.TRANSACTION_END, b"T\0", two) == "ENOSPC"
    assert store.state.domain(1).nodes == 4


def test_watches_and_transactions() -> None:
    store, guest = small(watches=2, transactions=2)
    for token in (b"1", b"2"):
        assert guest.ask(Op.WATCH, b"a\0" + token + b"\0") == OK
    assert guest.ask(Op.WATCH, b"a\x003\0") == "ENOSPC"
    guest.ask(Op.UNWATCH, b"a\x001\0")
    assert guest.ask(Op.WATCH, b"a\x003\0") == OK
    guest.start()
    tx = guest.start()
    assert guest.ask(Op.TRANSACTION_START, b"\0") == "ENOSPC"
    guest.ask(Op.TRANSACTION_END, b"F\0", tx)
    guest.start()
    guest.connection.reset()
    assert (store.state.domain(1).watches, store.state.domain(1).transactions) == (0, 0)


def test_the_nodes_that_a_transaction_looks_at() -> None:
    _, guest = small(transaction_nodes=3)
    tx = guest.start()
    for name in (b"a", b"b"):
        assert guest.ask(Op.READ, name + b"\0", tx) == "ENOENT"
    assert guest.ask(Op.READ, b"c\0", tx) == "ENOSPC"
    assert guest.ask(Op.TRANSACTION_END, b"T\0", tx) == "ENOMEM"


def test_a_directory_has_a_size_too() -> None:
    _, guest = small()
    made = 0
    while guest.ask(Op.MKDIR, b"d/%0100d\0" % made) == OK:
        made += 1
    # 16 bytes of header, 8 for a permission, 101 for each name.
    assert made == (2048 - 24) // 101


def test_memory_is_bounded_and_comes_back() -> None:
    store, guest = small(memory=20_000)
    before = store.state.domain(1).memory
    made = 0
    while guest.ask(Op.WRITE, b"n%d\0" % made + bytes(1900)) == OK:
        made += 1
        assert made < 100
    assert guest.ask(Op.WRITE, b"n%d\0" % made + bytes(1900)) == "ENOMEM"
    assert store.state.domain(1).memory <= 20_000
    for i in range(made):
        assert guest.ask(Op.RM, b"n%d\0" % i) == OK
    assert store.state.domain(1).memory == before


def test_a_node_can_be_written_again_where_there_is_no_more_memory() -> None:
    _, guest = small(memory=20_000)
    made = 0
    while guest.ask(Op.WRITE, b"n%d\0" % made + bytes(1000)) == OK:
        made += 1
    assert guest.ask(Op.WRITE, b"n0\0" + bytes(1000)) == OK
    assert guest.ask(Op.WRITE, b"n0\0" + bytes(2000)) == "ENOMEM"
    assert guest.ask(Op.WRITE, b"n0\0") == OK
    assert guest.ask(Op.WRITE, b"n0\0" + bytes(900)) == OK


def test_memory_in_transactions() -> None:
    """Everything that a domain's open transactions hold counts together, until they end."""
    store, guest = small(memory=20_000)
    before = store.state.domain(1).memory
    opened = [guest.start() for _ in range(5)]
    for _ in range(3):
        answers = [guest.ask(Op.WRITE, b"n\0" + bytes(1900), tx) for tx in opened]
        assert answers == [OK] * 5
    assert guest.ask(Op.RM, b"n\0", opened[0]) == OK
    assert store.state.domain(1).memory < before + 4 * 2000
    answers = [guest.ask(Op.WRITE, b"m\0" + bytes(1900), tx) for tx in opened]
    assert answers == [OK] * 5
    assert guest.ask(Op.WRITE, b"o\0" + bytes(1900), opened[0]) == OK
    assert guest.ask(Op.WRITE, b"p\0" + bytes(1900), opened[0]) == "ENOMEM"
    assert 15_000 < store.state.domain(1).memory <= 20_000
    assert guest.ask(Op.TRANSACTION_END, b"T\0", opened[0]) == "ENOMEM"
    for tx in opened[1:4]:
        guest.ask(Op.TRANSACTION_END, b"F\0", tx)
    guest.connection.reset()
    assert store.state.domain(1).memory == before


def test_memory_of_watches() -> None:
    _, guest = small(memory=10_000)
    answers = [guest.ask(Op.WATCH, b"w\0" + b"t" * 2000 + b"%d\0" % i) for i in range(8)]
    guest.drain()
    assert answers[0] == OK
    assert answers[-1] == "ENOMEM"


def test_unread_replies_stall_the_client() -> None:
    _, guest = small(outstanding=3)
    connection = guest.connection
    request = b"\x02\0\0\0" + bytes(8) + b"\x02\0\0\0" + b"a\0"
    for _ in range(3):
        assert not connection.stalled
        connection.feed(request)
    assert connection.stalled
    connection.take(len(request) + 10)
    assert not connection.stalled
    connection.reset()
    assert not connection.pending


def test_events_that_nobody_takes_are_bounded() -> None:
    store, guest = small(memory=10_000)
    guest.ask(Op.WATCH, b"/\0t\0")
    store.write("/open", b"")
    store.set_permissions("/open", Permission(0, READ))
    guest.drain()
    before = store.state.domain(1).memory
    for i in range(2000):
        store.write(f"/open/{i}", b"")
    assert 9_900 < store.state.domain(1).memory <= 10_000
    assert len(guest.drain()) < 500
    assert store.state.domain(1).memory == before


def test_dom0_is_not_limited() -> None:
    store = Store(Quota(nodes=1, watches=0, node_size=1, transactions=0, memory=1))
    client = Client(store.state, 0)
    assert client.ask(Op.WRITE, b"/a/b/c\0" + bytes(3000)) == OK
    assert client.ask(Op.WATCH, b"/a\0t\0") == OK
    assert client.start() == 1
