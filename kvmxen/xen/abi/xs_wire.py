"""xenstore's wire protocol and shared page (xen/include/public/io/xs_wire.h)."""

from __future__ import annotations

import errno
from enum import IntEnum, IntFlag

from kvmxen.xen.abi import io

PAYLOAD_MAX = io.XENSTORE_PAYLOAD_MAX
ABS_PATH_MAX = io.XENSTORE_ABS_PATH_MAX
REL_PATH_MAX = io.XENSTORE_REL_PATH_MAX
RING_SIZE = io.XENSTORE_RING_SIZE


class Operation(IntEnum):
    """enum xsd_sockmsg_type"""

    CONTROL = io.XS_CONTROL
    DIRECTORY = io.XS_DIRECTORY
    READ = io.XS_READ
    GET_PERMS = io.XS_GET_PERMS
    WATCH = io.XS_WATCH
    UNWATCH = io.XS_UNWATCH
    TRANSACTION_START = io.XS_TRANSACTION_START
    TRANSACTION_END = io.XS_TRANSACTION_END
    INTRODUCE = io.XS_INTRODUCE
    RELEASE = io.XS_RELEASE
    GET_DOMAIN_PATH = io.XS_GET_DOMAIN_PATH
    WRITE = io.XS_WRITE
    MKDIR = io.XS_MKDIR
    RM = io.XS_RM
    SET_PERMS = io.XS_SET_PERMS
    WATCH_EVENT = io.XS_WATCH_EVENT
    ERROR = io.XS_ERROR
    IS_DOMAIN_INTRODUCED = io.XS_IS_DOMAIN_INTRODUCED
    RESUME = io.XS_RESUME
    SET_TARGET = io.XS_SET_TARGET
    RESET_WATCHES = io.XS_RESET_WATCHES
    DIRECTORY_PART = io.XS_DIRECTORY_PART
    GET_FEATURE = io.XS_GET_FEATURE
    SET_FEATURE = io.XS_SET_FEATURE
    GET_QUOTA = io.XS_GET_QUOTA
    SET_QUOTA = io.XS_SET_QUOTA


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
