"""The control socket's protocol: one line of JSON there, one back, and the connection ends.

requests.py has the form of a request; a reply is {"done": VALUE}, or {"error": SENTENCE} with a
message for the user. Descriptors may come with a request (SCM_RIGHTS, unix(7)).
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from typing import Any

from kvmxen.errors import KvmxenError

SOCKET = "control.sock"
# Bytes of a line, including its end. A path has at most 4,096 bytes, three times that if
# percent-encoded; a reply may contain every device's figures.
MAX_REQUEST = 64 << 10
MAX_REPLY = 1 << 20
# Descriptors of a request.
MAX_DESCRIPTORS = 4


class ProtocolError(Exception):
    """The received bytes are not a line of this protocol."""


def read_line(
    connected: socket.socket, most: int, descriptors: list[socket.socket] | None = None
) -> bytes:
    """Receive a line, without its end; raises ProtocolError, and OSError as recv(2) does.

    Adds the sockets that come with it to `descriptors`.
    """
    line = b""
    while not line.endswith(b"\n"):
        if len(line) >= most:
            raise ProtocolError(f"more than {most} bytes")
        if descriptors is None:
            more = connected.recv(most - len(line))
        else:
            more = _receive(connected, most - len(line), descriptors)
        if not more:
            raise ProtocolError("the line has no end")
        line += more
    return line[:-1]


def _receive(connected: socket.socket, most: int, descriptors: list[socket.socket]) -> bytes:
    # The kernel closes what exceeds the room for them.
    more, received, _, _ = socket.recv_fds(
        connected, most, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
    )
    for at, fd in enumerate(received):
        try:
            descriptors.append(socket.socket(fileno=fd))
        except OSError:
            for other in received[at:]:
                os.close(other)
            raise ProtocolError("a descriptor is not a socket") from None
    return more


def write_line(
    connected: socket.socket, value: dict[str, Any], descriptors: Sequence[int] = ()
) -> None:
    """Send `value` with `descriptors`; raises OSError."""
    line = json.dumps(value).encode() + b"\n"
    if descriptors:
        line = line[socket.send_fds(connected, [line], descriptors) :]
    # Even an empty message fails once the other side has answered and gone.
    if line:
        connected.sendall(line)


def parse(line: bytes) -> Any:
    """The JSON value in a line; raises ProtocolError."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("not JSON") from error


def parse_reply(line: bytes) -> Any:
    """The result in a reply; raises KvmxenError if the request failed, and ProtocolError."""
    match parse(line):
        case {"done": value, **rest} if not rest:
            return value
        case {"error": str(sentence), **rest} if not rest:
            raise KvmxenError(sentence)
    raise ProtocolError("not a reply")
