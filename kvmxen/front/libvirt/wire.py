"""The messages of libvirt's RPC: their frames, and the values that many of them have."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

from kvmxen.front.libvirt.xdr import (
    DOUBLE,
    HYPER,
    INT,
    STRING,
    UHYPER,
    UINT,
    Fixed,
    Optional,
    Struct,
    Union,
)

# The most bytes of a message, its length included.
MAX_MESSAGE = (32 << 20) + 4
_HEADER = struct.Struct(">7I")

REMOTE = 0x20008086
KEEPALIVE = 0x6B656570
VERSION = 1
PING, PONG = 1, 2


class Kind(IntEnum):
    """What a message is."""

    CALL = 0
    REPLY = 1
    MESSAGE = 2
    STREAM = 3


class Status(IntEnum):
    """Of a reply, or of a part of a stream."""

    OK = 0
    ERROR = 1
    CONTINUE = 2


class Code(IntEnum):
    """virErrorNumber: what went wrong, as clients ask for it."""

    INTERNAL = 1
    NO_SUPPORT = 3
    INVALID = 8
    FAILED = 9
    XML = 27
    RPC = 39
    NO_DOMAIN = 42
    NO_NETWORK = 43
    NO_POOL = 49
    NO_VOLUME = 50
    INVALID_STATE = 55
    UNSUPPORTED = 67
    NO_METADATA = 80


class Failure(Exception):
    """A call fails: the client gets `code` and str()."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code


class FramingError(Exception):
    """The bytes are not messages: the connection cannot go on."""


@dataclass(frozen=True)
class Message:
    """A message: which procedure of which program, for which call, and its XDR."""

    program: int
    version: int
    procedure: int
    kind: int
    serial: int
    status: int
    payload: bytes = b""

    def answer(self, status: Status, payload: bytes) -> Message:
        """The reply to this call."""
        return replace(self, kind=Kind.REPLY, status=status, payload=payload)

    def part(self, status: Status, payload: bytes = b"") -> Message:
        """A part of the stream that this call opened."""
        return replace(self, kind=Kind.STREAM, status=status, payload=payload)

    def encode(self) -> bytes:
        """The bytes on the wire."""
        fields = (self.program, self.version, self.procedure, self.kind, self.serial, self.status)
        return _HEADER.pack(_HEADER.size + len(self.payload), *fields) + self.payload


class Frames:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are complete with `data`; raises FramingError."""
        self._data += data
        found = []
        while len(self._data) >= _HEADER.size:
            length, program, version, procedure, kind, serial, status = _HEADER.unpack_from(
                self._data
            )
            if not _HEADER.size <= length <= MAX_MESSAGE:
                raise FramingError(f"a message of {length} bytes")
            if len(self._data) < length:
                break
            payload = bytes(self._data[_HEADER.size : length])
            found.append(Message(program, version, procedure, kind, serial, status, payload))
            del self._data[:length]
        return found


# Values that many procedures have.
UUID_BYTES = Fixed(16)
DOMAIN = Struct(STRING, UUID_BYTES, INT)
POOL = Struct(STRING, UUID_BYTES)
VOLUME = Struct(STRING, STRING, STRING)
TEXT = Optional(STRING)
_VALUE = Union({1: INT, 2: UINT, 3: HYPER, 4: UHYPER, 5: DOUBLE, 6: INT, 7: STRING})
PARAMETER = Struct(STRING, _VALUE)
ERROR = Struct(INT, INT, TEXT, INT, Optional(DOMAIN), TEXT, TEXT, TEXT, INT, INT, Optional(POOL))
# virErrorDomain and virErrorLevel: Xen's driver, an error.
_FROM_XEN, _LEVEL_ERROR = 1, 2


def error(code: Code, text: str) -> bytes:
    """The payload of an error."""
    nothing: Any = None
    values = (code, _FROM_XEN, text, _LEVEL_ERROR, nothing, text, nothing, nothing, 0, 0, nothing)
    return ERROR.write(values)


# The arms of a typed parameter.
P_INT, P_UINT, P_ULLONG, P_STRING = 1, 2, 4, 7
Parameter = tuple[str, tuple[int, int | str]]


def parameter(name: str, value: int | str, kind: int = P_ULLONG) -> Parameter:
    """A typed parameter: a text, or a number of that `kind`."""
    return name, (P_STRING if isinstance(value, str) else kind, value)
