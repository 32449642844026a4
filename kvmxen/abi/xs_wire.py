"""xenstore's wire protocol and shared page (xen/include/public/io/xs_wire.h)."""

from __future__ import annotations

import errno
from enum import IntEnum, IntFlag

PAYLOAD_MAX = 4096
ABS_PATH_MAX = 3072
REL_PATH_MAX = 2048
RING_SIZE = 1024


class Operation(IntEnum):
    """enum xsd_sockmsg_type; 20 was RESTRICT and is no longer valid."""

    CONTROL = 0
    DIRECTORY = 1
    READ = 2
    GET_PERMS = 3
    WATCH = 4
    UNWATCH = 5
    TRANSACTION_START = 6
    TRANSACTION_END = 7
    INTRODUCE = 8
    RELEASE = 9
    GET_DOMAIN_PATH = 10
    WRITE = 11
    MKDIR = 12
    RM = 13
    SET_PERMS = 14
    WATCH_EVENT = 15
    ERROR = 16
    IS_DOMAIN_INTRODUCED = 17
    RESUME = 18
    SET_TARGET = 19
    RESET_WATCHES = 21
    DIRECTORY_PART = 22
    GET_FEATURE = 23
    SET_FEATURE = 24
    GET_QUOTA = 25
    SET_QUOTA = 26


class Feature(IntFlag):
    """XENSTORE_SERVER_FEATURE_*: the bits of the page's `server_features`."""

    RECONNECTION = 1
    ERROR = 2
    WATCHDEPTH = 4
    DOMID_ANY = 8


class ConnectionState(IntEnum):
    """The page's `connection` field: the guest asks to reconnect, the server confirms it."""

    CONNECTED = 0
    RECONNECT = 1


class RingError(IntEnum):
    """The page's `error` field: why the server stopped answering."""

    NONE = 0
    COMM = 1
    RINGIDX = 2
    PROTO = 3


# Errors travel by name; these are all the names (xsd_errors).
ERROR_NAMES = {
    code: errno.errorcode[code].encode()
    for code in (
        errno.EINVAL,
        errno.EACCES,
        errno.EEXIST,
        errno.EISDIR,
        errno.ENOENT,
        errno.ENOMEM,
        errno.ENOSPC,
        errno.EIO,
        errno.ENOTEMPTY,
        errno.ENOSYS,
        errno.EROFS,
        errno.EBUSY,
        errno.EAGAIN,
        errno.EISCONN,
        errno.E2BIG,
        errno.EPERM,
    )
}
