"""Who gets which watch events, and when, as Xen's C xenstored sends them."""

from __future__ import annotations

import pytest

from kvmxen.xen.abi.xs_wire import Operation as Op
from kvmxen.xenstore.domain import Domain
from kvmxen.xenstore.permissions import READ, Permission
from kvmxen.xenstore.store import Store
from kvmxen.xenstore.watches import UNLIMITED, Match, Watch, Watches
from tests.unit.xenstore.client import Client


def test_the_reply_comes_first_then_one_event(guest: Client) -> None:
    guest.ask(Op.WATCH, b"data\0tok\0")
    assert [message.type for message in guest.received] == [Op.WATCH, Op.WATCH_EVENT]
    assert guest.drain() == [(b"data", b"tok")]


def test_also_for_what_is_not_there_or_may_not_be_read(guest: Client) -> None:
    guest.ask(Op.WATCH, b"/secret/none\0t\0")
    assert guest.drain() == [(b"/secret/none", b"t")]


EVENTS = [
    # (watched path, the guest's request, events)
    (b"data", (Op.WRITE, b"data\0v"), [b"data"]),
    (b"data", (Op.WRITE, b"data/a\0v"), [b"data/a"]),
    (b"data", (Op.WRITE, b"data/a/b/c\0v"), [b"data/a/b/c"]),
    (b"data/a", (Op.WRITE, b"data/a/b/c\0v"), [b"data/a/b/c"]),
    (b"data/a/b/c", (Op.WRITE, b"data/a/b/c\0v"), [b"data/a/b/c"]),
    (b"data/a/b/c", (Op.WRITE, b"data/a\0v"), []),
    (b"data/a", (Op.WRITE, b"data/ab\0v"), []),
    (b"data/sub", (Op.WRITE, b"data\0v"), []),
    (b"data", (Op.MKDIR, b"data/a\0"), [b"data/a"]),
    (b"data", (Op.MKDIR, b"data/sub\0"), []),
    (b"data", (Op.RM, b"data/none\0"), []),
    (b"data", (Op.RM, b"data/sub\0"), [b"data/sub"]),
    (b"data/sub", (Op.RM, b"data/sub\0"), [b"data/sub"]),
    (b"data/sub/leaf", (Op.RM, b"data/sub\0"), [b"data/sub/leaf"]),
    (b"data/sub/none", (Op.RM, b"data/sub\0"), []),
    (b"data/sub", (Op.RM, b"data/sub/leaf\0"), [b"data/sub/leaf"]),
    (b"data", (Op.SET_PERMS, b"data/sub\0n1\0r0\0"), [b"data/sub"]),
    (b"data", (Op.READ, b"data\0"), []),
    (b"/local/domain/1/data", (Op.WRITE, b"data/a\0v"), [b"/local/domain/1/data/a"]),
    (b"/", (Op.WRITE, b"data/a\0v"), [b"/local/domain/1/data/a"]),
]


@pytest.mark.parametrize(("watched", "done", "events"), EVENTS)
@pytest.mark.parametrize("transaction", [False, True])
def test_events(
    store: Store,
    guest: Client,
    watched: bytes,
    done: tuple[Op, bytes],
    events: list[bytes],
    transaction: bool,
) -> None:
    store.write("/local/domain/1/data/sub/leaf", b"")
    guest.ask(Op.WATCH, watched + b"\0t\0")
    guest.drain()
    if transaction:
        tx = guest.start()
        guest.ask(*done, tx)
        assert guest.drain() == []
        guest.ask(Op.TRANSACTION_END, b"T\0", tx)
    else:
        guest.ask(*done)
    assert guest.drain() == [(path, b"t") for path in events]


@pytest.mark.parametrize(
    ("depth", "told"),
    [
        (b"0", [b"data"]),
        (b"1", [b"data", b"data/a"]),
        (b"2", [b"data", b"data/a", b"data/a/b"]),
        (None, [b"data", b"data/a", b"data/a/b"]),
    ],
)
def test_depth(guest: Client, depth: bytes | None, told: list[bytes]) -> None:
    guest.ask(Op.WATCH, b"data\0t\0" + (b"" if depth is None else depth + b"\0"))
    guest.drain()
    for path in (b"data", b"data/a", b"data/a/b"):
        guest.ask(Op.WRITE, path + b"\0v")
    assert [path for path, _ in guest.drain()] == told


def test_a_subtree_s_removal_is_told_leaves_first(store: Store, guest: Client) -> None:
    store.write("/local/domain/1/data/a/b", b"")
    for path in (b"data/a", b"data/a/b"):
        guest.ask(Op.WATCH, path + b"\0" + path + b"\0")
    guest.drain()
    guest.ask(Op.RM, b"data/a\0")
    assert guest.drain() == [(b"data/a/b", b"data/a/b"), (b"data/a", b"data/a")]


def test_nobody_is_told_of_what_it_may_not_read(store: Store, guest: Client) -> None:
    guest.ask(Op.WATCH, b"/secret\0t\0")
    guest.drain()
    store.write("/secret/key", b"new")
    store.write("/secret/deep/er", b"new")
    store.rm("/secret/deep")
    assert guest.drain() == []


def test_losing_the_right_to_read_is_told(store: Store, guest: Client) -> None:
    store.write("/shared", b"")
    store.set_permissions("/shared", Permission(0), Permission(1, READ))
    guest.ask(Op.WATCH, b"/shared\0t\0")
    guest.drain()
    store.set_permissions("/shared", Permission(0))
    assert guest.drain() == [(b"/shared", b"t")]
    store.write("/shared", b"v")
    assert guest.drain() == []


def test_removal_of_what_could_be_read_is_told(store: Store, guest: Client) -> None:
    store.write("/private/open", b"")
    store.set_permissions("/private/open", Permission(0), Permission(1, READ))
    guest.ask(Op.WATCH, b"/private/open\0t\0")
    guest.drain()
    store.rm("/private")
    assert guest.drain() == [(b"/private/open", b"t")]


def test_the_same_watch_twice(guest: Client) -> None:
    assert guest.ask(Op.WATCH, b"data\0t\0") == b"OK\0"
    assert guest.ask(Op.WATCH, b"/local/domain/1/data\0t\0") == "EEXIST"
    assert guest.ask(Op.WATCH, b"data\0other\0") == b"OK\0"
    guest.drain()
    guest.ask(Op.WRITE, b"data\0v")
    assert guest.drain() == [(b"data", b"t"), (b"data", b"other")]


def test_unwatch_and_reset(guest: Client) -> None:
    for token in (b"a", b"b", b"c"):
        guest.ask(Op.WATCH, b"data\0" + token + b"\0")
    guest.drain()
    assert guest.ask(Op.UNWATCH, b"data\0b\0") == b"OK\0"
    assert guest.ask(Op.UNWATCH, b"data\0b\0") == "ENOENT"
    guest.ask(Op.WRITE, b"data\0v")
    assert [token for _, token in guest.drain()] == [b"a", b"c"]
    tx = guest.start()
    assert guest.ask(Op.RESET_WATCHES, b"\0") == b"OK\0"
    guest.ask(Op.WRITE, b"data\0v")
    assert guest.drain() == []
    assert guest.ask(Op.READ, b"data\0", tx) == "ENOENT"


def test_an_event_that_waits_is_not_said_twice(store: Store, guest: Client) -> None:
    guest.ask(Op.WATCH, b"data\0t\0")
    guest.drain()
    for i in range(5):
        store.write("/local/domain/1/data", b"%d" % i)
    assert guest.drain() == [(b"data", b"t")]
    store.write("/local/domain/1/data", b"again")
    assert guest.drain() == [(b"data", b"t")]


def test_special_watches(store: Store, dom0: Client, guest: Client) -> None:
    for depth in (b"", b"1\0"):
        for client in (dom0, guest):
            client.ask(Op.WATCH, b"@introduceDomain\0t" + depth.strip(b"\0") + b"\0" + depth)
    dom0.drain()
    guest.drain()
    store.state.introduce(7)
    assert dom0.drain() == [(b"@introduceDomain", b"t"), (b"@introduceDomain/7", b"t1")]
    assert guest.drain() == []
    dom0.ask(Op.SET_PERMS, b"@introduceDomain\0n0\0r1\0")
    guest.drain()
    store.state.introduce(8)
    assert guest.drain() == [(b"@introduceDomain", b"t"), (b"@introduceDomain/8", b"t1")]


def test_an_event_too_long_to_be_said_is_left_out(store: Store, guest: Client) -> None:
    guest.ask(Op.WATCH, b"data\0" + b"t" * 4000 + b"\0")
    guest.drain()
    store.write("/local/domain/1/data/" + "x" * 200, b"")
    store.write("/local/domain/1/data/x", b"")
    assert [path for path, _ in guest.drain()] == [b"data/x"]


def test_matching_is_oldest_first_and_forgets() -> None:
    def watch(path: str, depth: int = UNLIMITED) -> Watch:
        watch = Watch(path, b"", Domain(0), lambda watch, path: None, depth)
        watches.add(watch)
        return watch

    watches = Watches()
    deep, root, named = watch("/a/b"), watch("/"), watch("@x", 1)
    again = watch("/a/b")
    assert watches.matching("/a/b", Match.SUBTREE) == [deep, root, again]
    assert watches.matching("/a/b", Match.EXACT) == [deep, again]
    assert watches.matching("@x/3", Match.NAMED) == [named]
    assert watches.matching("@x", Match.ANONYMOUS) == []
    watches.remove(deep)
    watches.remove(again)
    assert watches.matching("/a/b", Match.SUBTREE) == [root]


def test_who_may_list_a_directory_is_told_of_what_comes_and_goes_in_it(
    store: Store, guest: Client
) -> None:
    store.write("/open/shut", b"")
    store.set_permissions("/open/shut", Permission(0))
    store.set_permissions("/open", Permission(0), Permission(1, READ))
    guest.ask(Op.WATCH, b"/open\0t\0")
    guest.drain()
    store.write("/open/shut", b"v")
    assert guest.drain() == [(b"/open/shut", b"t")]
    store.rm("/open/shut")
    assert guest.drain() == [(b"/open/shut", b"t")]
