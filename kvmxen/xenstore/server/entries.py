"""The format of a journal: entries, each with the nodes that one request changed.

The file begins with a line that identifies it. Entries follow: the length of the content and its
CRC-32, the CRC-32 of these two (u32, little-endian), and the nodes as NODE_DATA of
xen/abi/xs_state.py; a removed node has no permissions. In version 1 nothing covers the length, so
an entry that is too long may be an interrupted write, or damage with whole entries behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from struct import Struct, error
from zlib import crc32

from kvmxen.xen.abi.xs_state import STALE
from kvmxen.xen.abi.xs_wire import ABS_PATH_MAX
from kvmxen.xenstore.errors import XenstoreError
from kvmxen.xenstore.paths import canonical, parent
from kvmxen.xenstore.permissions import ACCESS_OF, DOM0, LETTERS, Permission, Permissions
from kvmxen.xenstore.state import State

MAGIC = b"kvmxen xenstore 2\n"
MAGIC_1 = b"kvmxen xenstore 1\n"
_HEADER = Struct("<II")
_CHECK = Struct("<I")
_NODE = Struct("<8xHHHH")
_PERMISSION = Struct("<cBH")


class Tail(Enum):
    """What follows the last sound entry."""

    TORN = auto()
    """Nothing, or what an interrupted write leaves: no request was acknowledged for it."""
    DOUBTFUL = auto()
    """That, or damage (version 1)."""
    DAMAGED = auto()


@dataclass(frozen=True)
class Replayed:
    """How far a file is sound, in bytes, and what follows."""

    end: int
    tail: Tail


def replay(data: bytes, state: State) -> Replayed:
    """Replay into `state` a file with `data`, which begins with a magic."""
    at = len(MAGIC)
    for end, entry in _sound(data):
        if at == len(MAGIC):
            state.remove("/tool")
        try:
            for node in decode(entry):
                _apply(state, *node)
        except (XenstoreError, ValueError, error):
            return Replayed(at, Tail.DAMAGED)
        at = end
    return Replayed(at, _tail(data, at))


def entries(data: bytes) -> Iterator[bytes]:
    """The complete and sound entries of a file, up to the first that is not."""
    return (entry for _, entry in _sound(data))


def seal(entry: bytes) -> bytes:
    """An entry in the form that the file has."""
    header = _HEADER.pack(len(entry), crc32(entry))
    return header + _CHECK.pack(crc32(header)) + entry


def encode(path: str, value: bytes, permissions: Permissions) -> bytes:
    """A node as NODE_DATA, padded to 8 bytes."""
    name = path.encode() + b"\0"
    perms = [
        _PERMISSION.pack(LETTERS[p.access], 0 if p.valid else STALE, p.domid) for p in permissions
    ]
    body = b"".join((_NODE.pack(len(name), len(value), 0, len(perms)), *perms, name, value))
    return body + bytes(-len(body) % 8)


def decode(entry: bytes) -> Iterator[tuple[str, bytes, Permissions]]:
    """The nodes of an entry; raises ValueError and struct.error."""
    at = 0
    while at < len(entry):
        name_size, value_size, _, count = _NODE.unpack_from(entry, at)
        at += _NODE.size
        permissions = tuple(
            _permission(*_PERMISSION.unpack_from(entry, at + i * _PERMISSION.size))
            for i in range(count)
        )
        at += count * _PERMISSION.size
        name, value = entry[at : at + name_size], entry[at + name_size :][:value_size]
        if len(value) != value_size or name[-1:] != b"\0":
            raise ValueError("a node without its end")
        at += name_size + value_size
        at += -at % 8
        yield name[:-1].decode(), value, permissions


def _permission(letter: bytes, flags: int, domid: int) -> Permission:
    if letter not in ACCESS_OF:
        raise ValueError("a permission that is none")
    return Permission(domid, ACCESS_OF[letter], not flags & STALE)


def _header_size(data: bytes) -> int:
    return _HEADER.size + (0 if data.startswith(MAGIC_1) else _CHECK.size)


def _length(data: bytes, at: int) -> int | None:
    """The length in the header of the entry at `at`, or None if the header is not sound."""
    length, _ = _HEADER.unpack_from(data, at)
    if data.startswith(MAGIC_1):
        return int(length)
    (check,) = _CHECK.unpack_from(data, at + _HEADER.size)
    return int(length) if check == crc32(data[at : at + _HEADER.size]) else None


def _sound(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The sound entries, each with the offset of its end."""
    at, size = len(MAGIC), _header_size(data)
    while at + size <= len(data):
        length = _length(data, at)
        _, checksum = _HEADER.unpack_from(data, at)
        at += size
        entry = data[at : at + length] if length else b""
        if not entry or len(entry) != length or crc32(entry) != checksum:
            return
        at += length
        yield at, entry


def _tail(data: bytes, at: int) -> Tail:
    """Classify the rest from `at` on, where no sound entry begins."""
    size = _header_size(data)
    left = len(data) - at
    if left < size or not any(data[at:]):
        return Tail.TORN
    length = _length(data, at)
    if length is None or length <= left - size:
        return Tail.DAMAGED
    return Tail.DOUBTFUL if data.startswith(MAGIC_1) else Tail.TORN


def _apply(state: State, path: str, value: bytes, permissions: Permissions) -> None:
    if canonical(path, DOM0, special=True, limit=ABS_PATH_MAX) != path:
        raise ValueError("a relative path")
    if state.get(parent(path)) is None or (path[0] == "@" and state.get(path) is None):
        raise ValueError("a node without its parent")
    if permissions:
        state.put(path, value, permissions)
    elif path != "/" and path[0] != "@" and state.get(path) is not None:
        state.remove(path)
