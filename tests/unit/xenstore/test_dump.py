"""The whole state in Xen's format: golden bytes, round trips, and invalid images."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmxen.xen.abi import xs_state
from kvmxen.xen.abi.xs_state import RecordType
from kvmxen.xen.abi.xs_wire import Operation as Op
from kvmxen.xenstore.control import inconsistencies
from kvmxen.xenstore.dump import dump
from kvmxen.xenstore.errors import DumpError
from kvmxen.xenstore.load import load
from kvmxen.xenstore.permissions import READ, Permission
from kvmxen.xenstore.store import Store
from kvmxen.xenstore.wire import Message
from tests.unit.xenstore.client import Client

OK = b"OK\0"


def records(image: bytes) -> Iterator[tuple[int, bytes]]:
    """The records of `image`, cut by hand."""
    at = 16
    while at < len(image):
        kind, length = struct.unpack_from("<II", image, at)
        assert length % 8 == 0
        yield kind, image[at + 8 : at + 8 + length]
        at += 8 + length


def rich() -> tuple[Store, Client, Client]:
    """A store with some of everything; domain 1's client and dom0's, each with output to take."""
    store = Store()
    store.write("/local/domain/1/data/empty", b"")
    store.write("/local/domain/1/data/b", b"old")
    store.write("/local/domain/1/data/a", bytes(range(256)))
    store.set_permissions("/local/domain/1/data", Permission(1), Permission(7, READ))
    for name in ("a", "b", "empty"):
        store.set_permissions(f"/local/domain/1/data/{name}", Permission(1))
    store.set_permissions("@introduceDomain", Permission(0), Permission(1, READ))
    store.state.introduce(1)
    store.state.introduce(5)
    guest, dom0 = Client(store.state, 1), Client(store.state, 0)
    dom0.ask(Op.SET_QUOTA, b"1\0watches\x0055\0")
    dom0.ask(Op.SET_QUOTA, b"nodes\x00500\0")
    dom0.ask(Op.SET_TARGET, b"5\x001\0")
    guest.ask(Op.SET_PERMS, b"data/b\0n1\0r9\0")
    guest.ask(Op.WATCH, b"data\0plain\0")
    guest.ask(Op.WATCH, b"/local/domain/1/data\0deep\x001\0")
    guest.ask(Op.WATCH, b"@releaseDomain/7\0t\0")
    dom0.ask(Op.WATCH, b"/\0all\0")
    for client in (guest, dom0):
        client.drain()
    return store, guest, dom0


def restart(store: Store) -> tuple[Store, dict[int, Client]]:
    """Another store from a dump of `store`, and a client of each domain that has a ring."""
    again, connections = load(dump(store.state, ports={1: 9}))
    clients = {}
    for restored in connections:
        client = Client.__new__(Client)
        Client.__init__(client, again.state, 0)
        client.connection.close()
        client.connection = restored.connection
        clients[restored.connection.domain.domid] = client
    return again, clients


def test_golden_bytes() -> None:
    store = Store()
    store.rm("/tool")
    store.write("/key", b"value")
    store.set_permissions("/key", Permission(3, READ), Permission(4, valid=False))
    image = dump(store.state)
    assert image[:16] == b"xenstore\0\0\0\2\0\0\0\0"
    found = list(records(image))
    assert [kind for kind, _ in found] == [1, 6, 5, 5, 5, 5, 7, 7, 7, 0]
    assert found[0] == (1, b"\xff" * 8)
    assert found[1][1][:12] == b"\x0a\0\0\0\xe8\x03\0\0\x80\0\0\0"
    assert found[1][1][44:].rstrip(b"\0").split(b"\0")[:2] == [b"nodes", b"watches"]
    assert found[3] == (
        RecordType.NODE,
        bytes(8) + b"\5\0\5\0\0\0\2\0" + b"r\0\3\0n\1\4\0" + b"/key\0value" + bytes(6),
    )
    assert [body[: body.rindex(b"\0")].rpartition(b"\0")[0][-9:] for _, body in found[4:6]]
    assert image.endswith(bytes(8))


def test_all_is_as_it_was() -> None:
    store, guest, _ = rich()
    again, clients = restart(store)
    client = clients[1]
    nodes = {path: (node.value, node.permissions) for path, node in store.state.walk("/")}
    assert {path: (node.value, node.permissions) for path, node in again.state.walk("/")} == nodes
    assert again.directory("/local/domain/1/data") == ["empty", "b", "a"]
    assert again.permissions("@introduceDomain") == (Permission(0), Permission(1, READ))
    assert inconsistencies(again.state) == []
    for domid, domain in store.state.domains.items():
        twin = again.state.domain(domid)
        assert (twin.nodes, twin.quota, twin.features, twin.introduced) == (
            domain.nodes,
            domain.quota,
            domain.features,
            domain.introduced,
        )
    assert again.state.domain(5).target is again.state.domain(1)
    assert again.state.quota.nodes == 500
    assert again.state.domain(1).watches == 3
    assert client.ask(Op.WATCH, b"data\0plain\0") == "EEXIST"
    again.write("/local/domain/1/data/x/y", b"")
    guest.drain()
    assert client.drain() == [(b"data/x/y", b"plain")]
    again.write("/local/domain/1/data/b", b"")
    assert client.drain() == [
        (b"data/b", b"plain"),
        (b"/local/domain/1/data/b", b"deep"),
    ]


def test_a_dump_of_what_was_loaded_is_the_same() -> None:
    store, _guest, _ = rich()
    image = dump(store.state, ports={1: 9})
    again, _ = load(image)
    assert dump(again.state, ports={1: 9}) == image


def test_half_a_request_and_what_waits_are_kept() -> None:
    store, guest, _ = rich()
    request = Message(Op.READ, 77, 0, b"data/b\0").encode()
    connection = guest.connection
    connection.feed(request + request[:9])
    store.write("/local/domain/1/data/b", b"x")
    begun = connection.take(5)
    assert begun == request[:4] + b"M"
    _, clients = restart(store)
    again = clients[1].connection
    assert again.domain.memory == connection.domain.memory
    again.feed(request[9:])
    connection.feed(request[9:])
    assert again.take(1 << 20) == connection.take(1 << 20)
    assert again.domain.memory == connection.domain.memory


def test_sockets_are_kept_by_their_number() -> None:
    store, _, dom0 = rich()
    _, connections = load(dump(store.state, ports={1: 9}, descriptors={dom0.connection: 33}))
    found = {(r.connection.domain.domid, r.port, r.descriptor) for r in connections}
    assert found == {(0, None, 33), (1, 9, None), (5, 0, None)}
    (twin,) = [r.connection for r in connections if r.descriptor == 33]
    assert len(twin.session.watches) == 1


def test_a_transaction_goes_on() -> None:
    store, guest, _ = rich()
    tx = guest.start()
    guest.ask(Op.WRITE, b"data/new/deep\0v", tx)
    guest.ask(Op.WRITE, b"data/b\0new", tx)
    guest.ask(Op.RM, b"data/a\0", tx)
    guest.ask(Op.READ, b"data/none\0", tx)
    guest.ask(Op.GET_PERMS, b"@none\0", tx)
    again, clients = restart(store)
    client = clients[1]
    assert client.ask(Op.READ, b"data/b\0", tx) == b"new"
    assert client.ask(Op.READ, b"data/a\0", tx) == "ENOENT"
    assert client.ask(Op.READ, b"data/b\0") == b"old"
    assert client.ask(Op.TRANSACTION_END, b"T\0", tx) == OK
    assert again.directory("/local/domain/1/data") == ["empty", "b", "new"]
    assert again.read("/local/domain/1/data/new/deep") == b"v"
    assert {path for path, _ in client.drain()} >= {b"data/new/deep", b"data/b", b"data/a"}
    assert inconsistencies(again.state) == []


def test_what_others_made_on_the_way_is_still_theirs() -> None:
    store, guest, _ = rich()
    tx = guest.start()
    guest.ask(Op.WRITE, b"data/new/mine\0v", tx)
    guest.ask(Op.WRITE, b"data/new\0theirs")
    again, clients = restart(store)
    assert clients[1].ask(Op.TRANSACTION_END, b"T\0", tx) == OK
    assert again.read("/local/domain/1/data/new") == b"theirs"
    assert again.read("/local/domain/1/data/new/mine") == b"v"


@pytest.mark.parametrize(
    "outside",
    [
        (Op.WRITE, b"data/b\0mine"),
        (Op.WRITE, b"data/none\0mine"),
        (Op.SET_PERMS, b"data/b\0n1\0r0\0"),
        (Op.RM, b"data/b\0"),
        (Op.RM, b"data/a\0"),
    ],
)
@pytest.mark.parametrize("before", [True, False])
def test_a_transaction_meets_its_conflicts(outside: tuple[Op, bytes], before: bool) -> None:
    store, guest, _ = rich()
    tx = guest.start()
    guest.ask(Op.READ, b"data/b\0", tx)
    guest.ask(Op.READ, b"data/none\0", tx)
    guest.ask(Op.RM, b"data/a\0", tx)
    if before:
        assert guest.ask(*outside) == OK
    _, clients = restart(store)
    if not before:
        assert clients[1].ask(*outside) == OK
    assert clients[1].ask(Op.TRANSACTION_END, b"T\0", tx) == "EAGAIN"


def test_what_is_cut_off_anywhere_is_no_state() -> None:
    store, guest, _ = rich()
    guest.ask(Op.WRITE, b"data/new\0v", guest.start())
    image = dump(store.state)
    for length in range(len(image)):
        with pytest.raises(DumpError):
            load(image[:length])
    load(image)


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=6))
def test_what_is_altered_is_refused_or_at_least_consistent(changes: list[tuple[int, int]]) -> None:
    store, guest, _ = rich()
    tx = guest.start()
    guest.ask(Op.WRITE, b"data/new\0v", tx)
    guest.ask(Op.RM, b"data/a\0", tx)
    image = bytearray(dump(store.state, ports={1: 9}))
    for at, value in changes:
        image[at % len(image)] = value
    try:
        again, _ = load(bytes(image))
    except DumpError:
        return
    assert inconsistencies(again.state) == []


def _node(
    path: bytes, perms: bytes = b"n\0\0\0", value: bytes = b"", ids: bytes = bytes(8)
) -> bytes:
    lengths = struct.pack("<4H", len(path), len(value), 0, len(perms) // 4)
    return _record(5, ids + lengths + perms + path + value)


def _record(kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 8)
    return struct.pack("<II", kind, len(body)) + body


_RING = struct.pack("<IHHHHIHHI", 1, 0, 0, 1, xs_state.DOMID_INVALID, 5, 0, 0, 0)
_WATCH = struct.pack("<IHH", 1, 2, 2)


@pytest.mark.parametrize(
    "made_up",
    [
        _node(b"/a/b\0"),
        _node(b"/a\0") * 2,
        _node(b"/a\0", perms=b""),
        _node(b"/a"),
        _node(b"/a\0b\0"),
        _node(b"/a//b\0"),
        _node(b"\0"),
        _node(b"@other\0"),
        _node(b"/a\0", value=bytes(4097)),
        _node(b"/a\0", ids=struct.pack("<II", 1, 1)),
        _record(9, b""),
        _record(2, _RING) * 2,
        _record(2, struct.pack("<IHHHHIHHI", 0, 0, 0, 1, 0, 5, 0, 0, 0)),
        _record(2, struct.pack("<IHHHHIHHI", 1, 0, 0, 0, 0, 5, 0, 0, 0)),
        _record(2, struct.pack("<IHHHHIHHI", 1, 7, 0, 1, 0, 5, 0, 0, 0)),
        _record(2, struct.pack("<IHHHHIHHI", 1, 0, 0, 1, 0, 5, 0, 2, 1) + b"a"),
        _record(2, struct.pack("<IHHHHIHHI", 1, 0, 0, 1, 0, 5, 0, 0, 3) + b"abc"),
        _record(2, struct.pack("<IHHHHIHHI", 1, 0, 0, 1, 0, 5, 900, 0, 3) + b"abc"),
        _record(3, _WATCH + b"a\0b\0"),
        _record(2, _RING) + _record(3, _WATCH + b"a\0b\0") * 2,
        _record(2, _RING) + _record(3, _WATCH + b"abb\0"),
        _record(4, struct.pack("<II", 1, 1)),
        _record(2, _RING) + _record(4, struct.pack("<II", 1, 0)),
        _record(2, _RING)
        + _record(4, struct.pack("<II", 1, 1))
        + _node(b"/\0", perms=b"", ids=struct.pack("<II", 1, 1)),
    ],
)
def test_what_nobody_would_dump_is_refused(made_up: bytes) -> None:
    start = dump(Store().state)[:16]
    with pytest.raises(DumpError):
        load(start + made_up + _record(0, b""))


@pytest.mark.parametrize(
    "start", [b"xenstore\0\0\0\3\0\0\0\0", b"xenstore\0\0\0\2\0\0\0\1", b"xen"]
)
def test_other_versions_are_refused(start: bytes) -> None:
    with pytest.raises(DumpError):
        load(start + _record(0, b""))
