"""A store's nodes kept in a file: what was acknowledged outlives the process, however it ends.

The file is a line that says what it is, then entries: length and CRC-32 of what follows (u32,
little-endian), and the nodes that one request changed, as NODE_DATA of abi/xs_state.py, one of
no permissions for a removed one. An entry is written with one call before its request is
answered. What a kill leaves unfinished is at the end, and is cut off at the next start. When
the file has grown to a multiple of what the nodes need, one that starts afresh takes its place.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from struct import Struct, error
from types import TracebackType
from zlib import crc32

from kvmxen.abi.xs_state import STALE
from kvmxen.errors import KvmxenError
from kvmxen.xenstore.errors import XenstoreError
from kvmxen.xenstore.paths import canonical, parent
from kvmxen.xenstore.permissions import ACCESS_OF, DOM0, LETTERS, Permission, Permissions
from kvmxen.xenstore.state import State

MAGIC = b"kvmxen xenstore 1\n"
SLACK = 1 << 20
_ENTRY = Struct("<II")
_NODE = Struct("<8xHHHH")
_PERMISSION = Struct("<cBH")


class Journal:
    """The file at `path`, made if need be, which is ours alone within the context.

    It may grow by `slack` bytes over twice its nodes' size. Raises KvmxenError where the file
    cannot be used, on entering, in attach(), and, in place of the request's acknowledgement,
    where a change cannot be written.
    """

    def __init__(self, path: Path, slack: int = SLACK) -> None:
        self._path = path
        self._slack = slack
        self._fd = -1
        self._state: State | None = None
        self._pending: list[bytes] = []
        self._size = 0
        self._limit = 0
        self._failure: KvmxenError | None = None

    def __enter__(self) -> Journal:
        try:
            self._fd = self._open()
        except OSError as problem:
            raise self._sentence("cannot be opened", problem) from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._state is not None:
            self._state.recorder = None
        os.close(self._fd)

    def attach(self, state: State) -> None:
        """Fill `state`, a new one, from the file, but for what was guests'; keep it from now on."""
        with state.lock:
            self._fill(state)
            state.forget_guests()
            if self._state is not None:
                self._state.recorder = None
            self._state = state
            try:
                self._compact()
            except OSError as problem:
                raise self._sentence("cannot be written", problem) from None
            state.recorder = self

    def note(self, path: str, value: bytes, permissions: Permissions) -> None:
        """That the node at `path` is now so; with no permissions, that it is gone."""
        self._pending.append(encode(path, value, permissions))

    def commit(self) -> None:
        """Write what was noted, all or, at a kill, nothing of it."""
        if self._failure is not None:
            raise self._failure
        if not self._pending:
            return
        entry = _seal(b"".join(self._pending))
        self._pending.clear()
        try:
            self._size += _write(self._fd, entry)
        except OSError as problem:
            self._failure = self._sentence("cannot be written", problem)
            raise self._failure from None
        if self._size > self._limit:
            try:
                self._compact()
            except OSError:
                # All is in the old file; the next attempt is for when it has doubled.
                self._limit = 2 * self._size

    def _open(self) -> int:
        """The file's descriptor, with its lock; another may take the place of a locked one."""
        while True:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                raise KvmxenError(
                    f"the xenstore in {self._path} is another domain's now: name another file"
                ) from None
            try:
                if os.path.samestat(os.fstat(fd), self._path.stat()):
                    return fd
            except FileNotFoundError:
                pass
            os.close(fd)

    def _fill(self, state: State) -> None:
        try:
            data = self._path.read_bytes()
        except OSError as problem:
            raise self._sentence("cannot be read", problem) from None
        if not data or MAGIC.startswith(data):
            return
        if not data.startswith(MAGIC):
            raise KvmxenError(f"{self._path} is not a xenstore: name another file")
        damaged = replay(data, state)
        if damaged is not None:
            raise KvmxenError(
                f"the xenstore in {self._path} is damaged at byte {damaged}: cut it off there, "
                "or name another file"
            )

    def _compact(self) -> None:
        """Put a file with one entry, of all nodes, in place of this one."""
        assert self._state is not None
        nodes = [encode(path, n.value, n.permissions) for path, n in self._state.descend()]
        fresh = self._path.with_name(self._path.name + ".new")
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            size = _write(fd, MAGIC + _seal(b"".join(nodes)))
            os.fsync(fd)
            fresh.rename(self._path)
        except OSError:
            os.close(fd)
            raise
        os.close(self._fd)
        self._fd, self._size = fd, size
        self._limit = 2 * size + self._slack

    def _sentence(self, what: str, problem: OSError) -> KvmxenError:
        return KvmxenError(
            f"the xenstore in {self._path} {what}: {problem.strerror}; mend that, or name "
            "another file"
        )


def replay(data: bytes, state: State) -> int | None:
    """Do in `state` what a file with `data` says, up to what an interrupted write left.

    Returns the byte from which on it is damaged, None where it is not.
    """
    at = len(MAGIC)
    for entry in entries(data):
        if at == len(MAGIC):
            state.remove("/tool")
        try:
            for node in decode(entry):
                _apply(state, *node)
        except (XenstoreError, ValueError, error):
            return at
        at += _ENTRY.size + len(entry)
    return None if _is_torn(data, at) else at


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
            Permission(domid, ACCESS_OF[letter], not flags & STALE)
            for letter, flags, domid in (
                _PERMISSION.unpack_from(entry, at + i * _PERMISSION.size) for i in range(count)
            )
        )
        at += count * _PERMISSION.size
        name, value = entry[at : at + name_size], entry[at + name_size :][:value_size]
        if len(value) != value_size or name[-1:] != b"\0":
            raise ValueError("a node without its end")
        at += name_size + value_size
        at += -at % 8
        yield name[:-1].decode(), value, permissions


def entries(data: bytes) -> Iterator[bytes]:
    """The whole and sound entries of a file, up to the first that is not."""
    at = len(MAGIC)
    while at + _ENTRY.size <= len(data):
        length, checksum = _ENTRY.unpack_from(data, at)
        at += _ENTRY.size
        entry = data[at : at + length]
        if not length or len(entry) != length or crc32(entry) != checksum:
            return
        yield entry
        at += length


def _is_torn(data: bytes, at: int) -> bool:
    """Whether what is from `at` on is what an interrupted write leaves: less than an entry."""
    rest = data[at:]
    if len(rest) < _ENTRY.size:
        return True
    length, _ = _ENTRY.unpack_from(rest)
    return length > len(rest) - _ENTRY.size or not any(rest)


def _apply(state: State, path: str, value: bytes, permissions: Permissions) -> None:
    canonical(path, DOM0, special=True)
    if state.get(parent(path)) is None or (path[0] == "@" and state.get(path) is None):
        raise ValueError("a node without its parent")
    if permissions:
        state.put(path, value, permissions)
    elif path != "/" and path[0] != "@" and state.get(path) is not None:
        state.remove(path)


def _seal(entry: bytes) -> bytes:
    return _ENTRY.pack(len(entry), crc32(entry)) + entry


def _write(fd: int, data: bytes) -> int:
    size, rest = len(data), memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
    return size
