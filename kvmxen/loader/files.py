"""Reads whole files that a person names: regular files of a bounded size that do not change."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import TracebackType

from kvmxen.config.sizes import MIB
from kvmxen.errors import KvmxenError

# Signal handlers run between two steps.
_STEP = 4 * MIB
# Opening must not wait for a FIFO's other end, nor make a terminal ours.
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class RegularFile:
    """The regular file `path`, open for reading within the context.

    `called` is its name in sentences; every problem with it is a KvmxenError that begins with
    that. `status` is the file's status before it was read.
    """

    def __init__(self, path: Path, called: str = "") -> None:
        self._called = called or str(path)
        try:
            # Do not even open a device: some act when opened.
            self._check(path.stat())
            self._fd = os.open(path, _FLAGS)
        except FileNotFoundError:
            raise self.error("cannot be read: it does not exist; choose another file") from None
        except PermissionError:
            raise self.error(
                "cannot be read: you have no permission; ask for it, or copy the file"
            ) from None
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from None
        self.status = os.fstat(self._fd)

    def __enter__(self) -> RegularFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def error(self, what: str) -> KvmxenError:
        """The error that says `what` about this file."""
        return KvmxenError(f"{self._called} {what}")

    def head(self, size: int) -> bytes:
        """The first `size` bytes, or all if there are fewer."""
        try:
            return os.pread(self._fd, size, 0)
        except OSError as error:
            raise self._unreadable(error) from None

    def read(self, most: int, too_large: str) -> bytearray:
        """Read all of it, and hold it once; a file of more than `most` bytes is not read.

        `too_large` ends the sentence about such a file: "has 5 MiB, and ...".
        """
        # Another file may have replaced it since the first check.
        self._check(self.status)
        size = self.status.st_size
        if size > most:
            raise self.error(f"has {-(-size // MIB)} MiB, and {too_large}")
        try:
            content = bytearray(size)
            at = self._fill(memoryview(content))
            after = os.fstat(self._fd)
        except OSError as error:
            raise self._unreadable(error) from None
        except MemoryError:
            raise self.error(f"has {-(-size // MIB)} MiB, more than fits into memory") from None
        before = self.status
        if (at, after.st_size, after.st_mtime_ns) != (size, size, before.st_mtime_ns):
            raise self.error("changed while it was read; try again when it is complete")
        return content

    def _fill(self, into: memoryview) -> int:
        at = 0
        while count := os.preadv(self._fd, [into[at : at + _STEP]], at):
            at += count
        return at

    def _check(self, status: os.stat_result) -> None:
        if stat.S_ISDIR(status.st_mode):
            raise self.error("is a directory; give a file in it")
        if not stat.S_ISREG(status.st_mode):
            raise self.error("is not a regular file; copy its contents into one")
        if not status.st_size:
            raise self.error("is empty; get it again")

    def _unreadable(self, error: Exception) -> KvmxenError:
        why = getattr(error, "strerror", None) or str(error)
        return self.error(f"cannot be read: {why}; choose another file")
