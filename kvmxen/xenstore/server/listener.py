"""The socket that clients connect to, and the check of who they are."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BACKLOG = 128
_UCRED = struct.Struct("iII")


def listen(path: Path) -> socket.socket:
    """A non-blocking socket that listens at `path`, whatever the path's length.

    Only its owner may use it. Raises OSError.
    """
    listener = socket.socket(socket.AF_UNIX)
    try:
        with _short(path) as short:
            listener.bind(short)
        path.chmod(0o600)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def connect(path: Path) -> socket.socket:
    """A socket connected to the one that listens at `path`; raises OSError."""
    connected = socket.socket(socket.AF_UNIX)
    try:
        with _short(path) as short:
            connected.connect(short)
    except BaseException:
        connected.close()
        raise
    return connected


def may_connect(connected: socket.socket) -> bool:
    """Whether the process at the other end is our user's or root's (SO_PEERCRED, unix(7))."""
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _, uid, _ = _UCRED.unpack(credentials)
    return uid in (0, os.geteuid())


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """A short name of `path`: a socket address has room for 107 bytes."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
