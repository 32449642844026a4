"""The operations: what each request's payload says, and what it is answered with.

`execute` finds the operation in one table. Each takes the client's session, its transaction
and the payload, and returns the reply's payload (docs/misc/xenstore.txt); errors are found in
the order of Xen's C xenstored.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass

from kvmxen.abi.xs_wire import PAYLOAD_MAX, Feature, Operation
from kvmxen.xenstore.errors import XenstoreError
from kvmxen.xenstore.paths import home
from kvmxen.xenstore.permissions import DOM0, Permission
from kvmxen.xenstore.session import Session
from kvmxen.xenstore.transactions import Transaction
from kvmxen.xenstore.watches import UNLIMITED
from kvmxen.xenstore.wire import Message

FEATURES = Feature.RECONNECTION | Feature.ERROR | Feature.WATCHDEPTH | Feature.DOMID_ANY
DOMID_SELF = 0x7FF0  # xen/include/public/xen.h

_OK = b"OK\0"
_NO_ROOM = (errno.ENOSPC, errno.ENOMEM)


@dataclass(frozen=True)
class Request:
    """A message with whose it is: `transaction` is None for one on the live store."""

    session: Session
    transaction: Transaction | None
    message: Message

    @property
    def strings(self) -> list[str]:
        """The payload's strings that end with a NUL; what follows the last is left out."""
        return self.message.payload.decode("latin-1").split("\0")[:-1]

    @property
    def one(self) -> str:
        """The payload as exactly one string; raises XenstoreError(EINVAL)."""
        text, *rest = self.message.payload.decode("latin-1").split("\0")
        if rest != [""]:
            raise XenstoreError(errno.EINVAL)
        return text

    def path(self, text: str, *, special: bool = False) -> str:
        """`text` as a canonical path; raises XenstoreError(EINVAL)."""
        return self.session.path(text, special=special)


def execute(session: Session, message: Message) -> bytes:
    """Do what `message` asks and return the reply's payload, in bytes; raises XenstoreError."""
    entry = _TABLE.get(message.type)
    if entry is None:
        raise XenstoreError(errno.ENOSYS)
    if entry.privileged and session.domid != DOM0:
        raise XenstoreError(errno.EACCES)
    transaction = None
    if message.tx_id and not entry.outside:
        transaction = session.transaction(message.tx_id)
    try:
        reply = entry.handler(Request(session, transaction, message))
    except XenstoreError as error:
        if transaction and error.errno in _NO_ROOM:
            transaction.doom()
        raise
    if len(reply) > PAYLOAD_MAX:
        raise XenstoreError(errno.E2BIG)
    return reply


def _directory(request: Request) -> bytes:
    path = request.path(request.one)
    return request.session.access(request.transaction).look(path).listing


def _directory_part(request: Request) -> bytes:
    if len(request.strings) != 2:
        raise XenstoreError(errno.EINVAL)
    text, offset_text = request.strings
    node = request.session.access(request.transaction).look(request.path(text))
    offset = _decimal(offset_text)
    generation = b"%d\0" % node.generation
    listing = node.listing
    # The end of the list is told by an empty name, for which one byte is kept.
    end = offset + PAYLOAD_MAX - len(generation) - 1
    if end < len(listing):
        end = listing.rfind(b"\0", offset, end) + 1
        return generation + listing[offset:end]
    return generation + listing[offset:] + b"\0"


def _read(request: Request) -> bytes:
    path = request.path(request.one)
    return request.session.access(request.transaction).look(path).value


def _write(request: Request) -> bytes:
    text, nul, value = request.message.payload.partition(b"\0")
    if not nul:
        raise XenstoreError(errno.EINVAL)
    path = request.path(text.decode("latin-1"))
    request.session.access(request.transaction).write(path, value)
    return _OK


def _mkdir(request: Request) -> bytes:
    request.session.access(request.transaction).mkdir(request.path(request.one))
    return _OK


def _rm(request: Request) -> bytes:
    request.session.access(request.transaction).rm(request.path(request.one))
    return _OK


def _get_perms(request: Request) -> bytes:
    path = request.path(request.one, special=True)
    node = request.session.access(request.transaction).look(path)
    return b"".join(permission.encode() + b"\0" for permission in node.permissions)


def _set_perms(request: Request) -> bytes:
    strings = request.strings
    if len(strings) < 2:
        raise XenstoreError(errno.EINVAL)
    session = request.session
    if not session.domain.allows("permissions", len(strings) - 1):
        raise XenstoreError(errno.ENOSPC)
    permissions = [Permission.decode(text.encode("latin-1")) for text in strings[1:]]
    # Dom0 makes the domains, so it knows whom it names; a guest may name one that is not.
    if session.domid == DOM0:
        for permission in permissions:
            session.state.domain(permission.domid)
    known = tuple(p._replace(valid=session.state.knows(p.domid)) for p in permissions)
    path = request.path(strings[0], special=True)
    session.access(request.transaction).set_permissions(path, known)
    return _OK


def _watch(request: Request) -> bytes:
    strings = request.strings
    if len(strings) not in (2, 3):
        raise XenstoreError(errno.EINVAL)
    depth = _decimal(strings[2]) if len(strings) == 3 else UNLIMITED
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
    request.session.end_transaction(request.message.tx_id, commit=request.one == "T")
    return _OK


def _get_domain_path(request: Request) -> bytes:
    return home(_domid(request.one)).encode() + b"\0"


def _is_domain_introduced(request: Request) -> bytes:
    domid = _domid(request.one)
    known = domid == DOMID_SELF or request.session.state.is_introduced(domid)
    return b"T\0" if known else b"F\0"


def _get_feature(request: Request) -> bytes:
    if request.strings and request.session.domid != DOM0:
        raise XenstoreError(errno.EACCES)
    return b"%d\0" % FEATURES


def _not_here(request: Request) -> bytes:
    raise XenstoreError(errno.ENOSYS)


def _decimal(text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise XenstoreError(errno.EINVAL)
    return int(text)


def _domid(text: str) -> int:
    number = _decimal(text)
    if number > 0xFFFF:
        raise XenstoreError(errno.EINVAL)
    return number


@dataclass(frozen=True)
class _Entry:
    """`privileged`: dom0's alone; `outside`: the transaction id means nothing to it."""

    handler: Callable[[Request], bytes]
    privileged: bool = False
    outside: bool = False


_TABLE: dict[int, _Entry] = {
    Operation.CONTROL: _Entry(_not_here, privileged=True),
    Operation.DIRECTORY: _Entry(_directory),
    Operation.READ: _Entry(_read),
    Operation.GET_PERMS: _Entry(_get_perms),
    Operation.WATCH: _Entry(_watch, outside=True),
    Operation.UNWATCH: _Entry(_unwatch, outside=True),
    Operation.TRANSACTION_START: _Entry(_transaction_start),
    Operation.TRANSACTION_END: _Entry(_transaction_end),
    Operation.INTRODUCE: _Entry(_not_here, privileged=True),
    Operation.RELEASE: _Entry(_not_here, privileged=True),
    Operation.GET_DOMAIN_PATH: _Entry(_get_domain_path),
    Operation.WRITE: _Entry(_write),
    Operation.MKDIR: _Entry(_mkdir),
    Operation.RM: _Entry(_rm),
    Operation.SET_PERMS: _Entry(_set_perms),
    Operation.IS_DOMAIN_INTRODUCED: _Entry(_is_domain_introduced, privileged=True),
    Operation.RESUME: _Entry(_not_here, privileged=True),
    Operation.SET_TARGET: _Entry(_not_here, privileged=True),
    Operation.RESET_WATCHES: _Entry(_reset_watches),
    Operation.DIRECTORY_PART: _Entry(_directory_part),
    Operation.GET_FEATURE: _Entry(_get_feature),
    Operation.SET_FEATURE: _Entry(_not_here, privileged=True),
    Operation.GET_QUOTA: _Entry(_not_here, privileged=True),
    Operation.SET_QUOTA: _Entry(_not_here, privileged=True),
}
