"""The client: nodes, transactions, changes; and clear words for a person's mistakes."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from kvmxen.errors import KvmxenError
from kvmxen.xenstore.errors import XenstoreError
from kvmxen.xenstore.server.client import Client
from kvmxen.xenstore.server.listener import listen
from kvmxen.xenstore.server.protocol import SOCKET
from kvmxen.xenstore.store import Store
from tests.unit.xenstore.server.conftest import NAME


def test_nodes(client: Client, store: Store) -> None:
    client.write("/a/b", b"one\0two")
    client.write("/a/c", b"")
    assert client.read("/a/b") == b"one\0two"
    assert client.directory("/a") == ["b", "c"]
    client.rm("/a/b")
    assert not store.exists("/a/b")


@pytest.mark.parametrize(
    ("node", "code"),
    [
        ("/none", errno.ENOENT),
        ("/a//b", errno.EINVAL),
        ("/é", errno.EINVAL),
        ("/\udce9", errno.EINVAL),
    ],
)
def test_refusals_are_errors(client: Client, node: str, code: int) -> None:
    with pytest.raises(XenstoreError) as refusal:
        client.read(node)
    assert refusal.value.errno == code


def test_a_path_that_is_not_utf_8_is_bytes(client: Client) -> None:
    acts: list[Callable[[str], object]] = [
        client.directory,
        client.rm,
        client.watch,
        lambda path: client.write(path, b""),
    ]
    for act in acts:
        with pytest.raises(XenstoreError) as refusal:
            act("/a/\udce9")
        assert refusal.value.errno == errno.EINVAL


def test_a_value_too_long_is_not_even_sent(client: Client) -> None:
    with pytest.raises(XenstoreError) as refusal:
        client.write("/a", bytes(5000))
    assert refusal.value.errno == errno.E2BIG
    client.write("/a", b"short")


def test_a_directory_of_any_size(client: Client, store: Store) -> None:
    names = [f"child-{number}" for number in range(2000)]
    for name in names:
        store.write(f"/many/{name}", b"")
    assert client.directory("/many") == names


def test_a_transaction_is_all_or_nothing(client: Client, store: Store) -> None:
    with client.transaction():
        client.write("/a", b"1")
        assert not store.exists("/a")
    assert store.read("/a") == b"1"
    with suppress(ZeroDivisionError), client.transaction():
        client.write("/a", b"2")
        raise ZeroDivisionError
    assert client.read("/a") == b"1"


def test_a_transaction_that_others_disturb_fails(client: Client, store: Store) -> None:
    store.write("/a", b"1")

    def disturbed() -> None:
        with client.transaction():
            client.read("/a")
            store.write("/a", b"2")
            client.write("/a", b"3")

    with pytest.raises(XenstoreError) as refusal:
        disturbed()
    assert refusal.value.errno == errno.EAGAIN
    assert client.read("/a") == b"2"


def test_changes(client: Client, store: Store) -> None:
    client.watch("/a")
    changes = client.changes()
    assert next(changes) == "/a"
    store.write("/a/b", b"")
    assert next(changes) == "/a/b"
    store.write("/b", b"")
    client.write("/a/c", b"")
    assert next(changes) == "/a/c"


def test_no_such_domain(root: Path) -> None:
    with pytest.raises(KvmxenError, match="no domain named mail is running; start it"):
        Client(root, "mail")


def test_the_others_are_named(path: Path, root: Path) -> None:
    with pytest.raises(KvmxenError, match="no domain named mail is running; those that are: web"):
        Client(root, "mail")


def test_a_domain_that_died_is_none(root: Path) -> None:
    listen(root / NAME / SOCKET).close()
    with pytest.raises(KvmxenError, match="no domain named web is running"):
        Client(root, NAME)


def test_a_domain_that_ends_meanwhile(root: Path) -> None:
    with listen(root / NAME / SOCKET) as listener:
        client = Client(root, NAME)
        listener.setblocking(True)
        listener.accept()[0].close()
        with pytest.raises(KvmxenError, match="the domain web has ended or rebooted"):
            client.read("/a")
        client.close()
