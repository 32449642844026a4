"""Isolation, conflicts and commits, by table and compared with a simple model."""

from __future__ import annotations

import weakref

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kvmxen.xen.abi.xs_wire import Operation as Op
from kvmxen.xenstore.control import inconsistencies
from kvmxen.xenstore.store import Store
from tests.unit.xenstore.client import Client

OK = b"OK\0"
R, W, M, D, L = Op.READ, Op.WRITE, Op.MKDIR, Op.RM, Op.DIRECTORY
P, G = Op.SET_PERMS, Op.GET_PERMS

CONFLICTS = [
    # (in the transaction, outside meanwhile, whether the commit succeeds)
    ([(R, b"data/a\0")], [(W, b"data/b\0new")], True),
    ([(R, b"data/a\0")], [(W, b"data/a\0new")], False),
    ([(R, b"data/a\0")], [(W, b"data/a\0old")], False),
    ([(R, b"data/a\0")], [(P, b"data/a\0n1\0r0\0")], False),
    ([(R, b"data/a\0")], [(D, b"data/a\0")], False),
    ([(R, b"data/none\0")], [(W, b"data/none\0v")], False),
    ([(R, b"data/none\0")], [(W, b"data/other\0v")], True),
    ([(R, b"data/none\0")], [(P, b"data\0n1\0r0\0")], False),
    ([(R, b"data/a\0")], [(W, b"data/other\0v")], True),
    ([(R, b"data/a\0")], [(R, b"data/a\0"), (L, b"data\0")], True),
    ([(W, b"data/a\0mine")], [(W, b"data/b\0new")], True),
    ([(W, b"data/a\0mine")], [(W, b"data/a\0new")], False),
    ([(W, b"data/a\0mine")], [(W, b"data\0new")], True),
    ([(W, b"data/a\0mine")], [(P, b"data\0n1\0r0\0")], True),
    ([(P, b"data/a\0n1\0r0\0")], [(W, b"data\0new")], True),
    ([(D, b"data/a\0")], [(W, b"data\0new")], False),
    ([(W, b"data/new\0mine")], [(W, b"data/other\0new")], True),
    ([(W, b"data/new\0mine")], [(W, b"data/new\0new")], False),
    ([(W, b"data/new\0mine")], [(M, b"data/new/deep\0")], False),
    ([(W, b"data/new\0mine")], [(W, b"data\0new")], False),
    ([(W, b"data/new\0mine")], [(P, b"data\0n1\0r0\0")], False),
    ([(W, b"data/new\0mine")], [(D, b"data\0")], False),
    ([(W, b"data/new\0mine")], [(D, b"data\0"), (M, b"data\0")], False),
    ([(W, b"data/new/deep\0mine")], [(W, b"data/new/other\0new")], True),
    ([(W, b"data/new/deep\0mine")], [(W, b"data/new\0new")], True),
    ([(W, b"data/new/deep\0mine")], [(W, b"data/new/deep/er\0new")], False),
    ([(W, b"data/new/deep\0"), (P, b"data/new\0n1\0")], [(M, b"data/new\0")], False),
    ([(W, b"data/new/deep\0"), (R, b"data/new\0")], [(M, b"data/new\0")], False),
    ([(W, b"data/new/deep\0"), (L, b"data/new\0")], [(M, b"data/new\0")], False),
    ([(W, b"data/new/deep\0"), (D, b"data/new\0")], [(M, b"data/new\0")], False),
    ([(M, b"data/new\0"), (W, b"data/new/deep\0")], [(M, b"data/new\0")], False),
    # A transaction that looked first and then wrote below must be the only one that did.
    ([(R, b"data/new\0"), (W, b"data/new/mine\0")], [(W, b"data/new/other\0")], False),
    ([(L, b"data/new\0"), (W, b"data/new/mine\0")], [(W, b"data/new/other\0")], False),
    ([(G, b"data/new\0"), (W, b"data/new/mine\0")], [(W, b"data/new/other\0")], False),
    ([(D, b"data/new/mine\0"), (W, b"data/new/mine\0")], [(W, b"data/new/other\0")], False),
    ([(R, b"data/new/x\0"), (W, b"data/new/mine\0")], [(W, b"data/new/other\0")], True),
    (
        [(W, b"data/new/deep\0"), (D, b"data/new\0"), (W, b"data/new/deep\0")],
        [(W, b"data/new/other\0")],
        False,
    ),
    ([(D, b"data/a\0"), (W, b"data/a/deep\0")], [(W, b"data/b\0new")], True),
    ([(D, b"data/a\0"), (W, b"data/a/deep\0")], [(W, b"data/a\0new")], False),
    ([(W, b"data/n/deep\0")], [(M, b"data/n\0"), (P, b"data/n\0n1\0r0\0")], False),
    ([(L, b"data\0"), (W, b"data/new\0mine")], [(W, b"data/other\0new")], False),
    ([(R, b"data\0")], [(W, b"data/other\0new")], True),
    ([(W, b"data/new\0mine")], [(W, b"data/a\0new")], True),
    ([(W, b"data/a/deep\0mine")], [(W, b"data/b/deep\0new")], True),
    ([(L, b"data\0")], [(M, b"data/c\0")], False),
    ([(L, b"data\0")], [(W, b"data/a\0new")], True),
    ([(Op.DIRECTORY_PART, b"data\x000\0")], [(M, b"data/c\0")], False),
    ([(D, b"data/a\0")], [(W, b"data/b\0new")], True),
    ([(D, b"data/a\0")], [(D, b"data/b\0")], True),
    ([(D, b"data/a\0")], [(D, b"data/a\0")], False),
    ([(D, b"data/a\0")], [(W, b"data/a/x\0new")], False),
    ([(D, b"data/a\0"), (W, b"data/a\0again")], [(W, b"data/b\0new")], True),
    ([(M, b"data/a\0")], [(M, b"data/b\0")], True),
    ([], [(D, b"data\0")], True),
]


@pytest.fixture
def other(guest: Client, store: Store) -> Client:
    """The guest's second connection, with two nodes in place."""
    other = Client(store.state, 1)
    other.ask(W, b"data/a\0old")
    other.ask(W, b"data/b\0old")
    return other


@pytest.mark.parametrize(("inside", "outside", "through"), CONFLICTS)
def test_conflicts(
    guest: Client,
    other: Client,
    inside: list[tuple[Op, bytes]],
    outside: list[tuple[Op, bytes]],
    through: bool,
) -> None:
    tx = guest.start()
    for request in inside:
        guest.ask(*request, tx)
    for request in outside:
        other.ask(*request)
    assert guest.ask(Op.TRANSACTION_END, b"T\0", tx) == (OK if through else "EAGAIN")
    assert guest.ask(R, b"data\0", tx) == "ENOENT"


def test_what_is_inside_is_seen_inside_only_until_the_commit(guest: Client, other: Client) -> None:
    tx = guest.start()
    guest.ask(W, b"data/a\0mine", tx)
    guest.ask(W, b"data/new/deep\0mine", tx)
    guest.ask(D, b"data/b\0", tx)
    assert guest.ask(R, b"data/a\0", tx) == b"mine"
    assert guest.ask(L, b"data\0", tx) == b"a\0new\0"
    assert other.ask(R, b"data/a\0") == b"old"
    assert other.ask(L, b"data\0") == b"a\0b\0"
    assert guest.ask(R, b"data/a\0") == b"old"
    assert guest.ask(Op.TRANSACTION_END, b"T\0", tx) == OK
    assert other.ask(R, b"data/a\0") == b"mine"
    assert other.ask(L, b"data\0") == b"a\0new\0"
    assert other.ask(R, b"data/new/deep\0") == b"mine"


def test_the_snapshot_stays_as_it_was(guest: Client, other: Client) -> None:
    tx = guest.start()
    other.ask(W, b"data/a\0new")
    other.ask(D, b"data/b\0")
    assert guest.ask(R, b"data/a\0", tx) == b"old"
    assert guest.ask(R, b"data/b\0", tx) == b"old"
    assert guest.ask(Op.TRANSACTION_END, b"T\0", tx) == "EAGAIN"


def test_an_aborted_transaction_leaves_nothing(guest: Client, other: Client) -> None:
    guest.ask(Op.WATCH, b"data\0t\0")
    guest.drain()
    tx = guest.start()
    guest.ask(W, b"data/a\0mine", tx)
    guest.ask(D, b"data/b\0", tx)
    assert guest.ask(Op.TRANSACTION_END, b"F\0", tx) == OK
    assert other.ask(L, b"data\0") == b"a\0b\0"
    assert other.ask(R, b"data/a\0") == b"old"
    assert guest.drain() == []


def test_a_failed_commit_changes_nothing_and_tells_nobody(guest: Client, other: Client) -> None:
    tx = guest.start()
    guest.ask(W, b"data/b\0mine", tx)
    guest.ask(R, b"data/a\0", tx)
    other.ask(W, b"data/a\0new")
    guest.ask(Op.WATCH, b"data\0t\0")
    guest.drain()
    assert guest.ask(Op.TRANSACTION_END, b"T\0", tx) == "EAGAIN"
    assert other.ask(R, b"data/b\0") == b"old"
    assert guest.drain() == []


@pytest.mark.parametrize("below", [b"/b", b"/b/c", b"/b/c/d"])
@pytest.mark.parametrize("permissions", [b"n1\0", b"n1\0r2\0"])
def test_what_is_made_in_place_of_a_removed_node_is_new(
    guest: Client, store: Store, below: bytes, permissions: bytes
) -> None:
    guest.ask(W, b"data/a\0old value")
    guest.ask(P, b"data/a\0" + permissions)
    tx = guest.start()
    guest.ask(D, b"data/a\0", tx)
    guest.ask(W, b"data/a" + below + b"\0new", tx)
    assert guest.ask(Op.TRANSACTION_END, b"T\0", tx) == OK
    assert guest.ask(R, b"data/a\0") == b""
    assert guest.ask(G, b"data/a\0") == b"n1\0"
    assert guest.ask(R, b"data/a" + below + b"\0") == b"new"


def test_what_others_made_on_the_way_is_left_as_it_is(guest: Client, other: Client) -> None:
    tx = guest.start()
    guest.ask(W, b"data/new/mine\0m", tx)
    other.ask(W, b"data/new\0value")
    assert guest.ask(Op.TRANSACTION_END, b"T\0", tx) == OK
    assert other.ask(R, b"data/new\0") == b"value"


def test_a_refusal_is_something_that_a_client_was_told(store: Store, guest: Client) -> None:
    """The client could have read a node of its own there, so the refusal tells it that there is
    none."""
    dom0 = Client(store.state, 0)
    dom0.ask(W, b"/post/box\0")
    dom0.ask(P, b"/post/box\0n0\0w1\0")
    tx = guest.start()
    assert guest.ask(R, b"/post/box/a/x\0", tx) == "EACCES"
    assert guest.ask(W, b"/post/box/a/y\0", tx) == OK
    assert Client(store.state, 1).ask(W, b"/post/box/a/z\0") == OK
    assert guest.ask(Op.TRANSACTION_END, b"T\0", tx) == "EAGAIN"


def test_two_transactions_that_cross(guest: Client, other: Client) -> None:
    """The example in tools/xenstored/transaction.c: the first to end wins."""
    one, two = guest.start(), other.start()
    guest.ask(R, b"data/a\0", one)
    other.ask(R, b"data/b\0", two)
    guest.ask(W, b"data/b\0one", one)
    other.ask(W, b"data/a\0two", two)
    assert guest.ask(Op.TRANSACTION_END, b"T\0", one) == OK
    assert other.ask(Op.TRANSACTION_END, b"T\0", two) == "EAGAIN"


def test_what_a_transaction_held_is_free_at_its_end(guest: Client) -> None:
    """A snapshot that waited for the garbage collector would burden later transactions."""
    tx = guest.start()
    guest.ask(W, b"data/a\0mine", tx)
    held = weakref.ref(guest.connection.session.transactions[tx])
    guest.ask(Op.TRANSACTION_END, b"T\0", tx)
    assert held() is None


def test_ids_are_a_connection_s_own(guest: Client, other: Client) -> None:
    assert [guest.start(), guest.start(), other.start()] == [1, 2, 1]
    guest.ask(Op.TRANSACTION_END, b"F\0", 1)
    assert guest.start() == 3


def test_one_request_without_room_dooms_the_transaction(guest: Client, other: Client) -> None:
    tx = guest.start()
    guest.ask(W, b"data/a\0mine", tx)
    assert guest.ask(W, b"data/b\0" + bytes(3000), tx) == "ENOSPC"
    assert guest.ask(Op.TRANSACTION_END, b"T\0", tx) == "ENOMEM"
    assert other.ask(R, b"data/a\0") == b"old"


def test_an_event_for_each_change_in_the_order_of_first_touch(guest: Client, other: Client) -> None:
    guest.ask(Op.WATCH, b"data\0t\0")
    guest.drain()
    tx = guest.start()
    for path in (b"data/b", b"data/a", b"data/c", b"data/b"):
        guest.ask(W, path + b"\0v", tx)
    guest.ask(Op.TRANSACTION_END, b"T\0", tx)
    assert [path for path, _ in guest.drain()] == [b"data/b", b"data/a", b"data/c"]


def test_a_node_made_and_removed_inside_is_no_news(guest: Client, other: Client) -> None:
    guest.ask(Op.WATCH, b"data/c\0t\0")
    guest.drain()
    tx = guest.start()
    guest.ask(W, b"data/c\0v", tx)
    guest.ask(D, b"data/c\0", tx)
    assert guest.ask(Op.TRANSACTION_END, b"T\0", tx) == OK
    assert guest.drain() == []


def test_three_hundred_domains_start_at_once(store: Store) -> None:
    """None has to restart because of another, although all create nodes in the same directories."""
    store.mkdir("/vm")
    client = Client(store.state, 0)
    opened = [client.start() for _ in range(300)]
    for step in range(3):
        for domid, tx in enumerate(opened, 10):
            base, path = b"/local/domain/%d" % domid, b"/vm/%d" % domid
            requests = [
                [(M, base + b"\0"), (P, base + b"\0n0\0r1\0"), (W, base + b"/vm\0" + path)],
                [(W, path + b"/name\0guest"), (W, base + b"/device/vif/0/state\x001")],
                [(W, b"/local/domain/0/backend/vif/%d/0/state\x001" % domid), (R, path + b"\0")],
            ][step]
            for operation, payload in requests:
                assert client.ask(operation, payload, tx) in (OK, b"")
    for tx in opened:
        assert client.ask(Op.TRANSACTION_END, b"T\0", tx) == OK
    assert len(store.directory("/vm")) == 300
    assert len(store.directory("/local/domain/0/backend/vif")) == 300
    assert inconsistencies(store.state) == []


def test_a_directory_that_two_fill_stays_within_its_size(store: Store) -> None:
    """Each alone would fit; the second to end must look again, and is then refused."""
    guest = Client(store.state, 1)
    one, two = guest.start(), guest.start()
    for tx, letter in ((one, b"a"), (two, b"b")):
        for i in range(11):
            assert guest.ask(M, b"data/" + letter * 97 + b"%02d\0" % i, tx) == OK
    assert guest.ask(Op.TRANSACTION_END, b"T\0", one) == OK
    assert guest.ask(Op.TRANSACTION_END, b"T\0", two) == "EAGAIN"
    again = guest.start()
    answers = [guest.ask(M, b"data/" + b"b" * 97 + b"%02d\0" % i, again) for i in range(11)]
    assert answers[-1] == "ENOSPC"
    assert guest.ask(Op.TRANSACTION_END, b"T\0", again) == "ENOMEM"


NAMES = st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=3)
PATHS = NAMES.map(lambda names: "/" + "/".join(names))
Model = dict[str, bytes]
Request = tuple[Op, str, bytes]


def _answer(model: Model, operation: Op, path: str, value: bytes) -> bytes | str:
    """Execute dom0's request in `model`."""
    above = path.rpartition("/")[0]
    if operation == Op.READ:
        return model.get(path, "ENOENT")
    if operation == Op.RM:
        found = path in model or above in model or not above
        for gone in [p for p in model if p == path or p.startswith(path + "/")]:
            del model[gone]
        return OK if found else "ENOENT"
    at = ""
    for name in path.split("/")[1:]:
        at += "/" + name
        model.setdefault(at, b"")
    model[path] = value
    return OK


class Transactions(RuleBasedStateMachine):
    """Several transactions at once: each sees its own dict, and each commit is correct.

    If it commits, its requests, made at that moment without any others in between, must get the
    same answers, and their effect is the outcome.
    """

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.store.rm("/tool")
        self.client = Client(self.store.state, 0)
        self.live: Model = {}
        self.open: dict[int, tuple[Model, list[tuple[Request, bytes | str]]]] = {}

    def pick(self, which: int) -> int:
        """One of the open transactions, or 0 for none."""
        choices = [0, *self.open]
        return choices[which % len(choices)]

    @rule()
    def start(self) -> None:
        if len(self.open) < 3:
            self.open[self.client.start()] = (dict(self.live), [])

    @rule(
        which=st.integers(0, 3),
        operation=st.sampled_from([Op.WRITE, Op.RM, Op.READ]),
        path=PATHS,
        value=st.binary(max_size=2),
    )
    def ask(self, which: int, operation: Op, path: str, value: bytes) -> None:
        tx = self.pick(which)
        model, log = self.open[tx] if tx else (self.live, [])
        request = (operation, path, value if operation == Op.WRITE else b"")
        expected = _answer(model, *request)
        assert self.client.ask(operation, path.encode() + b"\0" + request[2], tx) == expected
        log.append((request, expected))

    @rule(which=st.integers(0, 3), commit=st.booleans())
    def end(self, which: int, commit: bool) -> None:
        tx = self.pick(which)
        if not tx:
            return
        _, log = self.open.pop(tx)
        answer = self.client.ask(Op.TRANSACTION_END, b"T\0" if commit else b"F\0", tx)
        if commit and answer == OK:
            for request, expected in log:
                assert _answer(self.live, *request) == expected
        else:
            assert answer == ("EAGAIN" if commit else OK)

    @rule(requests=st.lists(st.tuples(st.sampled_from([Op.WRITE, Op.RM]), PATHS), max_size=4))
    def alone(self, requests: list[tuple[Op, str]]) -> None:
        """With nothing between its start and its end, a transaction cannot fail."""
        tx = self.client.start()
        for operation, path in requests:
            expected = _answer(self.live, operation, path, b"")
            assert self.client.ask(operation, path.encode() + b"\0", tx) == expected
        assert self.client.ask(Op.TRANSACTION_END, b"T\0", tx) == OK

    @invariant()
    def the_store_is_the_model(self) -> None:
        found = {path: node.value for path, node in self.store.state.walk("/") if path != "/"}
        assert found == self.live
        # Dom0 also owns the root and the two special nodes.
        assert self.store.state.domain(0).nodes == len(found) + 3


TestTransactions = Transactions.TestCase
TestTransactions.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
