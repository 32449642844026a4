"""Tells those who wait for it that a domain runs: systemd (sd_notify(3)), or a descriptor's end."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


def tell_ready(fd: int | None) -> None:
    """Send READY=1 to $NOTIFY_SOCKET, if there is one; write a newline to `fd` and close it."""
    if path := os.environ.get("NOTIFY_SOCKET"):
        # "@" stands for the NUL of an abstract address.
        address = f"\0{path[1:]}" if path.startswith("@") else path
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier, suppress(OSError):
            notifier.sendto(b"READY=1\n", address)
    if fd is not None:
        with suppress(OSError):
            os.write(fd, b"\n")
            os.close(fd)
