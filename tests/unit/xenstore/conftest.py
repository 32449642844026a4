"""A store with a guest in it, for most of these tests."""

from __future__ import annotations

import pytest

from kvmxen.xenstore.permissions import READ, Permission
from kvmxen.xenstore.store import Store
from tests.unit.xenstore.client import Client


@pytest.fixture
def store() -> Store:
    """Domain 1 may read its home and owns `data` in it; dom0 has something private."""
    store = Store()
    store.mkdir("/local/domain/1")
    store.set_permissions("/local/domain/1", Permission(0), Permission(1, READ))
    store.write("/local/domain/1/name", b"guest")
    store.mkdir("/local/domain/1/data")
    store.set_permissions("/local/domain/1/data", Permission(1))
    store.write("/secret/key", b"hidden")
    store.state.introduce(1)
    return store


@pytest.fixture
def guest(store: Store) -> Client:
    """Domain 1's own connection."""
    return Client(store.state, 1)


@pytest.fixture
def dom0(store: Store) -> Client:
    """A privileged client, as on the socket."""
    return Client(store.state, 0)
