"""Keeps a store's nodes in a file: acknowledged changes outlive the process, however it ends.

The file is a sequence of entries (entries.py). One call writes an entry before its request is
answered. If a kill interrupts it, the partial entry is at the end, and the next start cuts it off.
When the file has grown to a multiple of what the nodes need, a new file takes its place.

The journal keeps what a domain's next run would find. It omits the nodes that each run creates
anew and a guest's own, which are then forgotten. So nothing that a guest or a backend does with
nodes of its own touches the file.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic
from types import TracebackType
from zlib import crc32

from kvmxen.errors import KvmxenError
from kvmxen.streams import say
from kvmxen.xen.abi.xen import DOMID_GUEST
from kvmxen.xenstore.errors import XenstoreError
from kvmxen.xenstore.nodes import of_one_run
from kvmxen.xenstore.permissions import DOM0, Permissions
from kvmxen.xenstore.server.entries import MAGIC, MAGIC_1, Tail, encode, replay, seal
from kvmxen.xenstore.state import ROOTS, State
from kvmxen.xenstore.tree import Node

SLACK = 128 << 10
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# A guest that may write kept nodes must not fill the terminal with refusals.
_QUIET_SECONDS = 60
_LINKS = 40  # as many as Linux follows
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ANEW = of_one_run(DOMID_GUEST)
_BELOW_ANEW = tuple(f"{path}/" for path in _ANEW)


class Journal:
    """The file at `path`, created if missing, for our exclusive use within the context.

    It may grow by `slack` bytes over twice its nodes' size. Entering and attach() raise
    KvmxenError if the file cannot be used.
    """

    def __init__(self, path: Path, slack: int = SLACK) -> None:
        self._path = _followed(path)
        self._slack = slack
        self._fd = -1
        self._state: State | None = None
        self._pending: list[bytes] = []
        self._size = 0
        self._limit = 0
        self._torn = False
        self._refused = -math.inf

    def __enter__(self) -> Journal:
        try:
            self._fd = self._open()
            self._sweep()
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
        """Fill `state`, a new one, from the file, without guests' nodes; record its changes
        from now on."""
        with state.lock:
            can_go_on = self._fill(state)
            state.forget_guests()
            if self._state is not None:
                self._state.recorder = None
            self._state = state
            try:
                try:
                    self._compact()
                except OSError:
                    # There may be no room for a second file.
                    if not can_go_on:
                        raise
                    os.ftruncate(self._fd, self._size)
                    self._limit = 2 * self._size
            except OSError as problem:
                raise self._sentence("cannot be written", problem) from None
            state.recorder = self

    def note(self, path: str, before: Node | None, value: bytes, permissions: Permissions) -> None:
        """Note that the node at `path` gets this content or, without permissions, is removed."""
        assert self._state is not None
        if _is_anew(path) or not self._state.tree.is_within(path, DOM0):
            return
        was = before is not None and _is_dom0_s(path, before.permissions)
        becomes = bool(permissions) and _is_dom0_s(path, permissions)
        if becomes:
            if was and before and (before.value, before.permissions) == (value, permissions):
                return
            self._pending.append(encode(path, value, permissions))
            if before and not was:
                # The nodes below it were a guest's too.
                self._pending += [
                    encode(where, node.value, node.permissions)
                    for where, node in _kept(self._state, [f"{path}/{n}" for n in before.names])
                ]
        elif was:
            self._pending.append(encode(path, b"", ()))

    def commit(self) -> None:
        """Write all noted changes; if killed meanwhile, none of them.

        Raises XenstoreError on failure: ENOSPC on a full disk, else EIO.
        """
        if not self._pending:
            return
        entry = seal(b"".join(self._pending))
        self._pending.clear()
        try:
            self._append(entry)
        except OSError as problem:
            # A new file contains the noted changes too, and may be smaller.
            if not self._try_compact():
                self._refuse(problem)
        if self._size > self._limit and not self._try_compact():
            # Try again when it has doubled.
            self._limit = 2 * self._size

    def _append(self, entry: bytes) -> None:
        if self._torn:
            os.ftruncate(self._fd, self._size)
        self._torn = True
        try:
            self._size += _write(self._fd, entry, self._size)
        except OSError:
            # The next attempt may need the disk space that this one took.
            with suppress(OSError):
                os.ftruncate(self._fd, self._size)
            raise
        self._torn = False

    def _refuse(self, problem: OSError) -> None:
        now = monotonic()
        if now > self._refused + _QUIET_SECONDS:
            say(
                f"cannot write the xenstore file {self._path}: {problem.strerror}; changes are "
                "refused until it can be written"
            )
        self._refused = now
        raise XenstoreError(errno.ENOSPC if problem.errno in _FULL else errno.EIO)

    def _open(self) -> int:
        """The file's descriptor, locked. It tries again if another file replaces the one that
        it locked."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        while True:
            fd = os.open(self._path, flags, 0o600)
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise KvmxenError(f"{self._path} is not a regular file: choose another file")
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise KvmxenError(
                        f"the xenstore file {self._path} is in use by another domain: choose "
                        "another file"
                    ) from None
                if os.path.samestat(os.fstat(fd), self._path.stat()):
                    return fd
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def _sweep(self) -> None:
        """Remove what a killed _compact() left behind; only the holder of the lock may."""
        leftover = re.compile(re.escape(self._path.name) + r"\.new-[0-9a-f]{16}").fullmatch
        with suppress(OSError):
            for path in self._path.parent.iterdir():
                if leftover(path.name) and path.is_file():
                    path.unlink()

    def _fill(self, state: State) -> bool:
        """Fill `state` from the file; return whether entries may be appended to it."""
        try:
            with open(self._fd, "rb", closefd=False) as file:
                file.seek(0)
                data = file.read(len(MAGIC))
                if data in (MAGIC, MAGIC_1):
                    data += file.read()
        except OSError as problem:
            raise self._sentence("cannot be read", problem) from None
        if MAGIC.startswith(data) or MAGIC_1.startswith(data):
            return False
        if not data.startswith((MAGIC, MAGIC_1)):
            raise KvmxenError(f"{self._path} is not a xenstore file: choose another file")
        found = replay(data, state)
        self._size = found.end
        if found.tail is Tail.DAMAGED:
            raise KvmxenError(
                f"the xenstore file {self._path} is damaged at byte {found.end}: "
                f"{self._what_is_behind(data[found.end :])}truncate it there, or choose another"
            )
        if found.tail is Tail.DOUBTFUL:
            try:
                aside = self._set_aside(data[found.end :])
            except OSError as problem:
                raise self._sentence("ends amid an entry, which cannot be saved", problem) from None
            say(
                f"the xenstore file {self._path} is incomplete or damaged from byte {found.end} "
                f"on: that part was moved to {aside}"
            )
        return data.startswith(MAGIC) and found.end > len(MAGIC)

    def _what_is_behind(self, rest: bytes) -> str:
        try:
            return f"a copy of the rest is in {self._set_aside(rest)}; "
        except OSError:
            # The rest is still in the file itself.
            return ""

    def _set_aside(self, rest: bytes) -> Path:
        """Save the part behind the sound entries to a file of its own, once."""
        aside = self._path.with_name(f"{self._path.name}.damaged-{crc32(rest):08x}")
        if aside.is_file() and aside.read_bytes() == rest:
            return aside
        if os.path.lexists(aside):
            aside = aside.with_name(f"{aside.name}-{os.urandom(8).hex()}")
        fd = os.open(aside, _NEW, 0o600)
        try:
            _write(fd, rest, 0)
        except OSError:
            aside.unlink()
            raise
        finally:
            os.close(fd)
        return aside

    def _try_compact(self) -> bool:
        try:
            self._compact()
        except OSError:
            return False
        return True

    def _compact(self) -> None:
        """Replace the file with a new one that has a single entry, of all nodes."""
        assert self._state is not None
        nodes = [encode(path, n.value, n.permissions) for path, n in _kept(self._state, ROOTS)]
        fresh = self._path.with_name(f"{self._path.name}.new-{os.urandom(8).hex()}")
        fd = os.open(fresh, _NEW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            size = _write(fd, MAGIC + seal(b"".join(nodes)), 0)
            os.fsync(fd)
            fresh.rename(self._path)
        except OSError:
            os.close(fd)
            fresh.unlink(missing_ok=True)
            raise
        os.close(self._fd)
        self._fd, self._size, self._torn = fd, size, False
        self._limit = 2 * size + self._slack

    def _sentence(self, what: str, problem: OSError) -> KvmxenError:
        return KvmxenError(
            f"the xenstore file {self._path} {what}: {problem.strerror}; fix that, or choose "
            "another file"
        )


def _followed(path: Path) -> Path:
    """The target of `path` if it is a symbolic link, so that the link stays one."""
    for _ in range(_LINKS):
        if not path.is_symlink():
            break
        path = path.parent / path.readlink()
    return path


def _is_anew(path: str) -> bool:
    """Whether each run of a domain creates the node anew."""
    return path.startswith(_BELOW_ANEW) or path in _ANEW


def _is_dom0_s(path: str, permissions: Permissions) -> bool:
    """Whether its owner makes the node one to keep; the root and the special nodes always are."""
    return permissions[0].domid == DOM0 or path == "/" or path[0] == "@"


def _kept(state: State, tops: Iterable[str]) -> Iterator[tuple[str, Node]]:
    """The nodes at `tops` and below that are kept."""
    skipped = None
    for path, node in state.descend(tops):
        if skipped and path.startswith(skipped):
            continue
        if _is_anew(path) or not _is_dom0_s(path, node.permissions):
            skipped = f"{path}/"
        else:
            yield path, node


def _write(fd: int, data: bytes, at: int) -> int:
    """Write `data` at the offset `at`; return its length."""
    rest = memoryview(data)
    while rest:
        done = os.pwrite(fd, rest, at)
        rest, at = rest[done:], at + done
    return len(data)
