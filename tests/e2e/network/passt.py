"""Whether passt runs on this machine: it confines itself to namespaces of its own, or ends."""

from __future__ import annotations

import select
import socket

from kvmxen.backends.net.passt import ADDRESS, GATEWAY, Passt
from kvmxen.config.net import NetSpec
from kvmxen.errors import KvmxenError

_PATIENCE = 120.0


def why_not() -> str | None:
    """The missing requirement, or None if a passt of ours answers."""
    try:
        passt = Passt("probe", NetSpec("user"))
    except KvmxenError as error:
        return str(error)
    try:
        return None if _answers(passt.link.fd) else "a passt that may set up its own sandbox"
    finally:
        passt.close()


def _answers(fd: int) -> bool:
    """Whether an ARP request for the gateway (RFC 826) gets an answer."""
    sender, nobody = bytes.fromhex("00163e000001"), bytes(6)
    addresses = sender + socket.inet_aton(ADDRESS) + nobody + socket.inet_aton(GATEWAY)
    frame = b"\xff" * 6 + sender + bytes.fromhex("08060001080006040001") + addresses
    stream = socket.socket(fileno=fd)
    try:
        stream.send(len(frame).to_bytes(4, "big") + frame)
        ready, _, _ = select.select([stream], [], [], _PATIENCE)
        return bool(ready and stream.recv(4))
    except OSError:
        return False
    finally:
        stream.detach()
