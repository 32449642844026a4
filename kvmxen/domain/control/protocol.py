"""The control socket's protocol: one line of JSON there, one back, and the connection ends.

requests.py has the form of a request; a reply is {"done": VALUE}, or {"error": SENTENCE} with a
message for the user.
"""

from __future__ import annotations

import json
import socket
from typing import Any

from kvmxen.errors import KvmxenError

SOCKET = "control.sock"
# Bytes of a line, including its end. A path has at most 4,096 bytes, three times that if
# percent-encoded; a reply may contain every device's figures.
MAX_REQUEST = 64 << 10
MAX_REPLY = 1 << 20


class ProtocolError(Exception):
    """The received bytes are not a line of this protocol."""


def read_line(connected: socket.socket, most: int) -> bytes:
    """Receive a line, without its end; raises ProtocolError, and OSError as recv(2) does."""
    line = b""
    while not line.endswith(b"\n"):
        if len(line) >= most:
            raise ProtocolError(f"more than {most} bytes")
        more = connected.recv(most - len(line))
        if not more:
            raise ProtocolError("the line has no end")
        line += more
    return line[:-1]


def write_line(connected: socket.socket, value: dict[str, Any]) -> None:
    """Send `value`; raises OSError."""
    connected.sendall(json.dumps(value).encode() + b"\n")


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
