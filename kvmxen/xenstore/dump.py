"""A store's whole state, as Xen's xenstored hands it on (docs/designs/xenstore-migration.md).

It omits the callbacks of this process's own watches and the nodes' generations. Of a transaction
that can only fail, it keeps only that fact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from construct import Construct

from kvmxen.xen.abi import xs_state
from kvmxen.xen.abi.layouts import xs_state as layouts
from kvmxen.xen.abi.xs_state import Access, ConnectionType, RecordType
from kvmxen.xenstore.connection import Connection
from kvmxen.xenstore.domain import Domain
from kvmxen.xenstore.permissions import DOM0, LETTERS, Permissions
from kvmxen.xenstore.quota import QUOTA_NAMES, Quota
from kvmxen.xenstore.state import State
from kvmxen.xenstore.transactions import Transaction
from kvmxen.xenstore.watches import Watch


def dump(
    state: State,
    *,
    ports: Mapping[int, int] | None = None,
    descriptors: Mapping[Connection, int] | None = None,
) -> bytes:
    """The state as one image, for load().

    `ports` has xenstore's event channel for each domain that has one. Of dom0's clients, the image
    includes those in `descriptors`, by the number of their socket.
    """
    with state.lock:
        return b"".join(_records(state, ports or {}, descriptors or {}))


def _records(
    state: State, ports: Mapping[int, int], descriptors: Mapping[Connection, int]
) -> Iterator[bytes]:
    version = {"version": xs_state.VERSION, "flags": xs_state.LITTLE_ENDIAN}
    yield layouts.PREAMBLE.build(version)
    yield _record(RecordType.GLOBAL, layouts.GLOBAL, {"socket_fd": -1, "evtchn_fd": -1})
    values, names = _quota(state.quota)
    glob = {"n_dom_quota": len(values), "n_glob_quota": 0, "quota_val": values, "names": names}
    yield _record(RecordType.GLOBAL_QUOTA, layouts.GLOBAL_QUOTA, glob)
    numbers: dict[Connection, int] = {}
    for client in state.clients:
        if client.domain.domid == DOM0 and client in descriptors:
            spec, kind = {"socket_fd": descriptors[client]}, ConnectionType.SOCKET
        elif client.domain.introduced and client.domain.domid != DOM0:
            spec, kind = _ring(client.domain, ports), ConnectionType.RING
        else:
            continue
        numbers[client] = len(numbers) + 1
        yield _connection(numbers[client], kind, spec, client.inbound(), *client.outbound())
        for watch in client.session.watches.values():
            yield _watch(watch, numbers[client])
    served = {DOM0, *(client.domain.domid for client in numbers)}
    others = [d for _, d in sorted(state.domains.items()) if d.introduced and d.domid not in served]
    for number, domain in enumerate(others, len(numbers) + 1):
        # Dom0 introduced the domain, but it has no connection here.
        yield _connection(number, ConnectionType.RING, _ring(domain, ports), b"", b"", b"")
    for path, node in state.descend():
        yield _node(path, node.value, node.permissions)
    for _, domain in sorted(state.domains.items()):
        values, names = _quota(domain.quota)
        head = {"domain_id": domain.domid, "n_quota": len(values), "features": domain.features}
        record: dict[str, object] = {**head, "quota_val": values, "names": names}
        yield _record(RecordType.DOMAIN, layouts.DOMAIN, record)
    for client, number in numbers.items():
        for ta_id, transaction in client.session.transactions.items():
            yield from _transaction(transaction, number, ta_id)
    yield _record(RecordType.END, layouts.GLOBAL, None)


def _record(kind: RecordType, layout: Construct, value: object) -> bytes:
    body = b"" if value is None else layout.build(value)
    built: bytes = layouts.RECORD.build({"type": kind, "body": body + bytes(-len(body) % 8)})
    return built


def _quota(quota: Quota) -> tuple[list[int], bytes]:
    return [quota.limit(n) for n in QUOTA_NAMES], b"".join(n.encode() + b"\0" for n in QUOTA_NAMES)


def _ring(domain: Domain, ports: Mapping[int, int]) -> dict[str, int]:
    target = domain.target.domid if domain.target else xs_state.DOMID_INVALID
    return {"domid": domain.domid, "tdomid": target, "evtchn": ports.get(domain.domid, 0)}


def _connection(
    number: int,
    kind: ConnectionType,
    spec: dict[str, int],
    inbound: bytes,
    started: bytes,
    waiting: bytes,
) -> bytes:
    record = {
        "conn_id": number,
        "conn_type": kind,
        "fields": 0,
        "spec": spec,
        "data_in_len": len(inbound),
        "data_resp_len": len(started),
        "data_out_len": len(started) + len(waiting),
        "data_in": inbound,
        "data_out": started + waiting,
        "unique_id": None,
    }
    return _record(RecordType.CONNECTION, layouts.CONNECTION, record)


def _watch(watch: Watch, conn_id: int) -> bytes:
    path, token = watch.path[watch.prefix :].encode() + b"\0", watch.token + b"\0"
    lengths = {"conn_id": conn_id, "path_length": len(path), "token_length": len(token)}
    record: dict[str, object] = {**lengths, "path": path, "token": token}
    if watch.depth < 0:
        return _record(RecordType.WATCH, layouts.WATCH, record)
    record["depth"] = min(watch.depth, xs_state.UNLIMITED_DEPTH - 1)
    return _record(RecordType.WATCH_EXTENDED, layouts.WATCH_EXTENDED, record)


def _node(
    path: str,
    value: bytes,
    permissions: Permissions,
    conn_id: int = 0,
    ta_id: int = 0,
    access: Access = Access.DELETED,
) -> bytes:
    record = {
        "conn_id": conn_id,
        "ta_id": ta_id,
        "path_len": len(path) + 1,
        "data_len": len(value),
        "ta_access": access,
        "perm_n": len(permissions),
        "perms": [
            {
                "access": ord(LETTERS[permission.access]),
                "flags": 0 if permission.valid else xs_state.STALE,
                "domid": permission.domid,
            }
            for permission in permissions
        ],
        "path": path.encode() + b"\0",
        "data": value,
    }
    return _record(RecordType.NODE, layouts.NODE, record)


def _transaction(transaction: Transaction, conn_id: int, ta_id: int) -> Iterator[bytes]:
    ids = {"conn_id": conn_id, "ta_id": ta_id}
    yield _record(RecordType.TRANSACTION, layouts.TRANSACTION, ids)
    if transaction.hopeless:
        # A transaction that has found no root conflicts with any store that it is loaded into.
        yield _node("/", b"", (), conn_id, ta_id, Access.READ)
        return
    for path, node, was, changed in transaction.touched():
        if node is not None:
            access = Access.READ | Access.WRITTEN if changed else Access.READ
            yield _node(path, node.value, node.permissions, conn_id, ta_id, access)
        else:
            access = Access.DELETED if was else Access.READ
            yield _node(path, b"", (), conn_id, ta_id, access)
