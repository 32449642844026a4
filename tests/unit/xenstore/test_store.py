"""The store as backends use it: reads, changes and callbacks."""

from __future__ import annotations

import errno

import pytest

from kvmxen.xen.abi.xs_wire import Operation as Op
from kvmxen.xenstore.errors import XenstoreError
from kvmxen.xenstore.permissions import READ, Permission
from kvmxen.xenstore.store import Store
from kvmxen.xenstore.wire import Message
from tests.unit.xenstore.client import Client


def test_reading_and_changing() -> None:
    store = Store()
    store.write("/a/b", b"value")
    assert store.read("/a/b") == b"value"
    assert store.directory("/a") == ["b"]
    store.set_permissions("/a/b", Permission(0), Permission(1, READ))
    assert store.permissions("/a/b") == (Permission(0), Permission(1, READ))
    store.mkdir("/a/c")
    assert store.directory("/a") == ["b", "c"]
    store.rm("/a")
    for ask in (store.read, store.directory, store.permissions):
        with pytest.raises(XenstoreError) as refused:
            ask("/a/b")
        assert refused.value.errno == errno.ENOENT
    with pytest.raises(XenstoreError):
        store.write("/a//b", b"")


def test_a_callback_is_called_at_once_and_after_each_change() -> None:
    store, told = Store(), list[tuple[str, bytes | None]]()

    def changed(path: str) -> None:
        node = store.state.get(path)
        told.append((path, node.value if node else None))

    watch = store.watch("/dev", changed)
    store.write("/dev/state", b"1")
    store.rm("/dev")
    store.write("/other", b"")
    store.unwatch(watch)
    store.write("/dev/state", b"2")
    assert told == [("/dev", None), ("/dev/state", b"1"), ("/dev", None)]


def test_a_guest_s_change_is_told_after_its_reply(store: Store, guest: Client) -> None:
    told: list[tuple[str, bool]] = []
    store.watch("/local/domain/1/data", lambda p: told.append((p, guest.connection.pending)))
    told.clear()
    guest.ask(Op.WRITE, b"data/x\0v")
    assert told == [("/local/domain/1/data/x", True)]


def test_what_callbacks_change_is_told_in_order() -> None:
    store, told = Store(), list[str]()

    def first(path: str) -> None:
        told.append("first " + path)
        if path == "/a":
            store.write("/b", b"")

    store.watch("/a", first)
    store.watch("/b", lambda path: told.append("b " + path))
    store.watch("/a", lambda path: told.append("last " + path))
    told.clear()
    store.write("/a", b"")
    assert told == ["first /a", "last /a", "b /b"]


def test_a_watch_that_ends_while_its_news_is_under_way_is_silent() -> None:
    store, told = Store(), list[str]()
    started = False
    store.watch("/a", lambda path: store.unwatch(late) if started else None)
    late = store.watch("/a", told.append)
    told.clear()
    started = True
    store.write("/a", b"")
    assert told == []


def test_the_same_callback_can_watch_twice() -> None:
    store, told = Store(), list[str]()
    watches = [store.watch("/a", told.append) for _ in range(2)]
    store.unwatch(watches[0])
    store.write("/a", b"")
    assert told == ["/a", "/a", "/a"]


def test_a_callback_that_fails_does_not_lose_the_others_news() -> None:
    store, told = Store(), list[str]()

    def broken(path: str) -> None:
        if store.state.get(path):
            raise RuntimeError("a backend's bug")

    store.watch("/a", broken)
    store.watch("/a", told.append)
    told.clear()
    with pytest.raises(RuntimeError):
        store.write("/a", b"")
    store.state.deliver()
    assert told == ["/a"]


def test_several_changes_are_one() -> None:
    store, told = Store(), list[tuple[str, bool]]()
    store.write("/a/x", b"1")
    store.watch("/a", lambda path: told.append((path, store.exists("/a/y"))))
    told.clear()
    with store.transaction() as nodes:
        nodes.write("/a/x", b"2")
        nodes.mkdir("/a/y")
        nodes.set_permissions("/a/y", Permission(0), Permission(1, READ))
        assert nodes.directory("/a") == ["x", "y"]
        assert store.read("/a/x") == b"1"
        assert told == []
    assert store.read("/a/x") == b"2"
    assert store.permissions("/a/y") == (Permission(0), Permission(1, READ))
    assert told == [("/a/x", True), ("/a/y", True)]


def test_an_exception_undoes_a_transaction() -> None:
    store, told = Store(), list[str]()
    store.write("/a/x", b"1")
    store.watch("/a", told.append)
    told.clear()

    def fail() -> None:
        with store.transaction() as nodes:
            nodes.write("/a/x", b"2")
            nodes.rm("/a")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert store.read("/a/x") == b"1"
    assert told == []


def test_a_client_is_woken_for_what_others_did(store: Store) -> None:
    woken: list[bool] = []
    connection = store.connect(1, lambda: woken.append(connection.pending))
    connection.feed(Message(Op.WATCH, 1, 0, b"data\0t\0").encode())
    assert woken == []
    assert connection.take(1000)
    store.write("/local/domain/1/data", b"1")
    store.write("/local/domain/1/data/x", b"2")
    assert woken == [False]
    event = Message(Op.WATCH_EVENT, 0, 0, b"data\0t\0").encode()
    assert connection.take(len(event)) == event
    assert connection.pending
    connection.close()
    assert not connection.pending
    store.write("/local/domain/1/data", b"3")
    assert not connection.pending
    assert woken == [False]
