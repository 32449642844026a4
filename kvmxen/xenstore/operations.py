"""The operations: how each parses its request's payload, and what it replies.

`execute` finds the operation in one table. Each takes the client's session, its transaction and
the payload, and returns the reply's payload (docs/misc/xenstore.txt); errors are detected in the
order of Xen's C xenstored.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass

from kvmxen.xen.abi.xs_wire import PAYLOAD_MAX, Feature, Operation
from kvmxen.xenstore import domains
from kvmxen.xenstore.control import control
from kvmxen.xenstore.errors import XenstoreError
from kvmxen.xenstore.permissions import DOM0, DOMID_ANY, Permission
from kvmxen.xenstore.request import Request, number
from kvmxen.xenstore.session import Session
from kvmxen.xenstore.watches import UNLIMITED

_OK = b"OK\0"
_NO_ROOM = (errno.ENOSPC, errno.ENOMEM)


def execute(session: Session, operation: int, tx_id: int, payload: bytes) -> bytes:
    """Execute a request and return the reply's payload; raises XenstoreError."""
    entry = _TABLE.get(operation)
    if entry is None:
        raise XenstoreError(errno.ENOSYS)
    if entry.privileged and session.domid != DOM0:
        raise XenstoreError(errno.EACCES)
    transaction = None
    if tx_id and not entry.outside:
        transaction = session.transaction(tx_id)
    try:
        reply = entry.handler(Request(session, transaction, tx_id, payload))
    except XenstoreError as error:
        if transaction and error.errno in _NO_ROOM:
            transaction.doom()
        raise
    if len(reply) > PAYLOAD_MAX:
        raise XenstoreError(errno.E2BIG)
    return reply


def _directory(request: Request) -> bytes:
    node = request.access.directory(request.path(request.one))
    if node.listing_size > PAYLOAD_MAX:
        raise XenstoreError(errno.E2BIG)
    return node.listing


def _directory_part(request: Request) -> bytes:
    if len(request.strings) != 2:
        raise XenstoreError(errno.EINVAL)
    text, offset_text = request.strings
    node = request.access.directory(request.path(text))
    offset = number(offset_text) & 0xFFFFFFFF
    generation = b"%d\0" % node.generation
    listing = node.listing
    # An empty name marks the end of the list; one byte is kept for it.
    end = offset + PAYLOAD_MAX - len(generation) - 1
    if end < len(listing):
        end = listing.rfind(b"\0", offset, end) + 1
        return generation + listing[offset:end]
    return generation + listing[offset:] + b"\0"


def _read(request: Request) -> bytes:
    path = request.path(request.one)
    return request.access.look(path).value


def _write(request: Request) -> bytes:
    text, nul, value = request.payload.partition(b"\0")
    if not nul:
        raise XenstoreError(errno.EINVAL)
    path = request.path(text.decode("latin-1"))
    request.access.write(path, value)
    return _OK


def _mkdir(request: Request) -> bytes:
    request.access.mkdir(request.path(request.one))
    return _OK


def _rm(request: Request) -> bytes:
    request.access.rm(request.path(request.one))
    return _OK


def _get_perms(request: Request) -> bytes:
    path = request.path(request.one, special=True)
    node = request.access.look(path)
    return b"".join(permission.encode() + b"\0" for permission in node.permissions)


def _set_perms(request: Request) -> bytes:
    strings = request.strings
    if len(strings) < 2:
        raise XenstoreError(errno.EINVAL)
    session = request.session
    if not session.domain.allows("node_permissions", len(strings) - 1):
        raise XenstoreError(errno.ENOSPC)
    permissions = [Permission.decode(text.encode("latin-1")) for text in strings[1:]]
    # Dom0 creates the domains, so it knows whom it names; a guest may name one that does not
    # exist.
    if session.domid == DOM0:
        for permission in permissions:
            if permission.domid != DOMID_ANY:
                session.state.domain(permission.domid)
    anybody = bool(session.domain.features & Feature.DOMID_ANY)
    known = tuple(
        p._replace(valid=anybody if p.domid == DOMID_ANY else session.state.knows(p.domid))
        for p in permissions
    )
    path = request.path(strings[0], special=True)
    request.access.set_permissions(path, known)
    return _OK


def _watch(request: Request) -> bytes:
    strings = request.strings
    depth = UNLIMITED
    if len(strings) == 3 and request.session.domain.features & Feature.WATCHDEPTH:
        depth = number(strings[2])
        if depth < 0:
            raise XenstoreError(errno.EINVAL)
    elif len(strings) != 2:
        raise XenstoreError(errno.EINVAL)
    request.session.watch(strings[0], strings[1].encode("latin-1"), depth)
    return _OK


def _unwatch(request: Request) -> bytes:
    if len(request.strings) != 2:
        raise XenstoreError(errno.EINVAL)
    text, token = request.strings
    request.session.unwatch(text, token.encode("latin-1"))
    return _OK


def _reset_watches(request: Request) -> bytes:
    request.session.reset()
    return _OK


def _transaction_start(request: Request) -> bytes:
    if request.transaction:
        raise XenstoreError(errno.EBUSY)
    return b"%d\0" % request.session.start_transaction()


def _transaction_end(request: Request) -> bytes:
    if request.one not in ("T", "F"):
        raise XenstoreError(errno.EINVAL)
    request.session.end_transaction(request.tx_id, commit=request.one == "T")
    return _OK


@dataclass(frozen=True)
class _Entry:
    """`privileged`: for dom0 only; `outside`: it ignores the transaction id."""

    handler: Callable[[Request], bytes]
    privileged: bool = False
    outside: bool = False


_TABLE: dict[int, _Entry] = {
    Operation.CONTROL: _Entry(control, privileged=True),
    Operation.DIRECTORY: _Entry(_directory),
    Operation.READ: _Entry(_read),
    Operation.GET_PERMS: _Entry(_get_perms),
    Operation.WATCH: _Entry(_watch, outside=True),
    Operation.UNWATCH: _Entry(_unwatch, outside=True),
    Operation.TRANSACTION_START: _Entry(_transaction_start),
    Operation.TRANSACTION_END: _Entry(_transaction_end),
    Operation.INTRODUCE: _Entry(domains.introduce, privileged=True),
    Operation.RELEASE: _Entry(domains.release, privileged=True),
    Operation.GET_DOMAIN_PATH: _Entry(domains.get_domain_path),
    Operation.WRITE: _Entry(_write),
    Operation.MKDIR: _Entry(_mkdir),
    Operation.RM: _Entry(_rm),
    Operation.SET_PERMS: _Entry(_set_perms),
    Operation.IS_DOMAIN_INTRODUCED: _Entry(domains.is_domain_introduced, privileged=True),
    Operation.RESUME: _Entry(domains.resume, privileged=True),
    Operation.SET_TARGET: _Entry(domains.set_target, privileged=True),
    Operation.RESET_WATCHES: _Entry(_reset_watches),
    Operation.DIRECTORY_PART: _Entry(_directory_part),
    Operation.GET_FEATURE: _Entry(domains.get_feature),
    Operation.SET_FEATURE: _Entry(domains.set_feature, privileged=True),
    Operation.GET_QUOTA: _Entry(domains.get_quota, privileged=True),
    Operation.SET_QUOTA: _Entry(domains.set_quota, privileged=True),
}
