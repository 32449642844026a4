"""Builds a store from the image of another's state, which may come from anybody: see dump.py.

Everything is checked before use; anything invalid raises DumpError and leaves the store half
filled and useless.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from construct import ConstructError

from kvmxen.xen.abi import xs_state
from kvmxen.xen.abi.layouts import xs_state as layouts
from kvmxen.xen.abi.xs_state import Access, ConnectionType, RecordType
from kvmxen.xen.abi.xs_wire import ABS_PATH_MAX, PAYLOAD_MAX
from kvmxen.xenstore.connection import Connection
from kvmxen.xenstore.domain import FEATURES
from kvmxen.xenstore.errors import DumpError, ProtocolError, XenstoreError
from kvmxen.xenstore.paths import canonical, parent
from kvmxen.xenstore.permissions import ACCESS_OF, DOM0, Permission, Permissions
from kvmxen.xenstore.quota import QUOTA_NAMES, Quota
from kvmxen.xenstore.state import INTRODUCE, RELEASE
from kvmxen.xenstore.store import Store
from kvmxen.xenstore.transactions import Transaction
from kvmxen.xenstore.watches import UNLIMITED
from kvmxen.xenstore.wire import Parser

_ACCESS = {ord(letter): access for letter, access in ACCESS_OF.items()}
_SPECIAL = ("/", INTRODUCE, RELEASE)


@dataclass(frozen=True)
class Restored:
    """A connection to continue: a domain's with its event channel, or a socket's number."""

    connection: Connection
    port: int | None = None
    descriptor: int | None = None


@dataclass
class _Loading:
    store: Store
    connections: dict[int, Restored] = field(default_factory=dict)
    transactions: dict[tuple[int, int], list[Any]] = field(default_factory=dict)
    made: set[str] = field(default_factory=set)


def load(image: bytes) -> tuple[Store, list[Restored]]:
    """The store that dump() saw, and its connections. Raises DumpError."""
    store = Store()
    state = store.state
    with state.lock:
        state.remove("/tool")
        loading = _Loading(store)
        try:
            for kind, body in _records(image):
                _TAKERS[kind](loading, body)
            # Transactions take their views of the store once it is complete.
            for (conn_id, ta_id), records in loading.transactions.items():
                session = loading.connections[conn_id].connection.session
                _resume(session.resume_transaction(ta_id), records)
        except (ConstructError, XenstoreError, ProtocolError, UnicodeDecodeError) as error:
            raise DumpError(f"the state of the xenstore makes no sense: {error}") from error
    return store, list(loading.connections.values())


def _records(image: bytes) -> Iterator[tuple[RecordType, bytes]]:
    stream = BytesIO(image)
    preamble = layouts.PREAMBLE.parse_stream(stream)
    if not 1 <= preamble.version <= xs_state.VERSION or preamble.flags != xs_state.LITTLE_ENDIAN:
        raise DumpError("the state of the xenstore is of a kind that is not known")
    while True:
        record = layouts.RECORD.parse_stream(stream)
        if record.type == RecordType.END:
            return
        if record.type not in _TAKERS:
            raise DumpError(f"the state of the xenstore has records of a type {record.type}")
        yield RecordType(record.type), record.body


def _global_quota(loading: _Loading, body: bytes) -> None:
    record = layouts.GLOBAL_QUOTA.parse(body)
    state = loading.store.state
    state.quota = _quota(state.quota, record)


def _domain(loading: _Loading, body: bytes) -> None:
    record = layouts.DOMAIN.parse(body)
    domain = loading.store.state.domain(record.domain_id)
    domain.features = record.features & int(FEATURES)
    domain.quota = _quota(domain.quota, record)


def _quota(quota: Quota, record: Any) -> Quota:
    for name, limit in zip(record.names.split(b"\0"), record.quota_val, strict=False):
        if name.decode() in QUOTA_NAMES:
            quota = quota.with_limit(name.decode(), limit)
    return quota


def _connection(loading: _Loading, body: bytes) -> None:
    record = layouts.CONNECTION.parse(body)
    if record.conn_id == 0 or record.conn_id in loading.connections:
        raise DumpError(f"the state of the xenstore has two connections {record.conn_id}")
    store, spec = loading.store, record.spec
    if record.conn_type == ConnectionType.RING:
        if spec.domid == DOM0:
            raise DumpError("the state of the xenstore has a ring of domain 0")
        connection = store.connect(spec.domid)
        connection.domain.introduced = True
        if spec.tdomid != xs_state.DOMID_INVALID:
            connection.domain.target = store.state.domain(spec.tdomid)
        restored = Restored(connection, port=spec.evtchn)
    else:
        restored = Restored(store.connect(), descriptor=spec.socket_fd)
    if record.data_resp_len > record.data_out_len:
        raise DumpError("the state of the xenstore has a reply that is longer than all of them")
    started = record.data_out[: record.data_resp_len]
    waiting = Parser()
    messages = list(waiting.feed(record.data_out[record.data_resp_len :]))
    if waiting.rest:
        raise DumpError("the state of the xenstore has half a reply")
    restored.connection.resume(record.data_in, started, messages)
    loading.connections[record.conn_id] = restored


def _watch(loading: _Loading, body: bytes) -> None:
    record = layouts.WATCH.parse(body)
    _add_watch(loading, record, UNLIMITED)


def _watch_extended(loading: _Loading, body: bytes) -> None:
    record = layouts.WATCH_EXTENDED.parse(body)
    unlimited = record.depth == xs_state.UNLIMITED_DEPTH
    _add_watch(loading, record, UNLIMITED if unlimited else record.depth)


def _add_watch(loading: _Loading, record: Any, depth: int) -> None:
    session = _of(loading, record.conn_id).session
    session.resume_watch(_text(record.path), _text(record.token).encode("latin-1"), depth)


def _transaction(loading: _Loading, body: bytes) -> None:
    record = layouts.TRANSACTION.parse(body)
    _of(loading, record.conn_id)
    loading.transactions.setdefault((record.conn_id, record.ta_id), [])


def _node(loading: _Loading, body: bytes) -> None:
    record = layouts.NODE.parse(body)
    path = canonical(_text(record.path), DOM0, special=True, limit=ABS_PATH_MAX)
    if len(record.data) > PAYLOAD_MAX:
        raise DumpError(f"the state of the xenstore has too long a value at {path}")
    missed = record.conn_id and not record.perms and record.ta_access & Access.READ
    if path[0] == "@" and path not in _SPECIAL and not missed:
        raise DumpError(f"the state of the xenstore has a special node {path}")
    if record.conn_id:
        key = record.conn_id, record.ta_id
        if key not in loading.transactions:
            raise DumpError(f"the state of the xenstore has no transaction {record.ta_id}")
        loading.transactions[key].append((path, record))
        return
    state = loading.store.state
    misplaced = path in loading.made or state.get(parent(path)) is None
    if misplaced or not record.perms:
        raise DumpError(f"the state of the xenstore has a node {path} where none can be")
    loading.made.add(path)
    state.put(path, record.data, _permissions(record))


def _resume(transaction: Transaction, records: list[Any]) -> None:
    """Redo in `transaction` what it had done: removals before the nodes made in their place."""
    records.sort(key=lambda item: (bool(item[1].perms), item[0].count("/")))
    for path, record in records:
        written = record.ta_access & Access.WRITTEN
        if record.perms and written:
            transaction.redo(path, record.data, _permissions(record))
        elif record.perms:
            transaction.get(path)
            transaction.listed(path)
        elif record.ta_access & Access.READ:
            transaction.missed(path)
        elif path in _SPECIAL:
            raise DumpError(f"the state of the xenstore has {path} removed")
        else:
            transaction.redo(path, None, ())


def _permissions(record: Any) -> Permissions:
    return tuple(
        Permission(item.domid, _ACCESS.get(item.access, 0), not item.flags & xs_state.STALE)
        for item in record.perms
    )


def _of(loading: _Loading, conn_id: int) -> Connection:
    if conn_id not in loading.connections:
        raise DumpError(f"the state of the xenstore has no connection {conn_id}")
    return loading.connections[conn_id].connection


def _text(field: bytes) -> str:
    text = field.decode("latin-1")
    if not text.endswith("\0") or "\0" in text[:-1]:
        raise DumpError("the state of the xenstore has a string without its end")
    return text[:-1]


_TAKERS = {
    RecordType.GLOBAL: lambda _loading, body: layouts.GLOBAL.parse(body),
    RecordType.CONNECTION: _connection,
    RecordType.WATCH: _watch,
    RecordType.TRANSACTION: _transaction,
    RecordType.NODE: _node,
    RecordType.GLOBAL_QUOTA: _global_quota,
    RecordType.DOMAIN: _domain,
    RecordType.WATCH_EXTENDED: _watch_extended,
}
