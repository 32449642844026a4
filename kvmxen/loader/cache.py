"""Keeps what is known about kernels between boots. Trouble with the cache never fails a boot."""

from __future__ import annotations

import mmap
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from kvmxen.loader.facts import Facts

if TYPE_CHECKING:
    from typing_extensions import Buffer

_IMAGE, _FACTS = ".vmlinux", ".facts"
# The number of files of each kind.
_KEPT = 8
# Enough for an ELF file with as many headers and bytes of notes as are allowed.
_MAX_FACTS = 4 << 20
# A file that changed less than this before it was read may have changed again since without a
# change of its times: file systems' clocks are that coarse.
_SETTLED_NS = 2_000_000_000


class KernelCache:
    """A private folder (mode 0700, ours) of facts and images. Each is named after its source: the
    source's place, size and times, of which the change time is the system's own.

    A cached file has its source's modification time. If it was truncated or altered, its time
    differs, and it is not used.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def facts(self, source: os.stat_result) -> Facts | None:
        """The facts about the file with status `source`, or None if they are not cached."""
        with suppress(OSError, ValueError):
            if file := self._open(source, _FACTS):
                with file:
                    return Facts.decode(file.read(_MAX_FACTS))
        return None

    def image(self, source: os.stat_result) -> mmap.mmap | None:
        """The unpacked image of the file with status `source`, or None if it is not cached."""
        with suppress(OSError, ValueError):
            if file := self._open(source, _IMAGE):
                with file:
                    return mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ)
        return None

    def store(self, source: os.stat_result, facts: Facts, image: Buffer | None) -> None:
        """Cache `facts`, and `image` if it was unpacked; only the latest few are kept.

        `source` is the file's status before it was read.
        """
        if time.time_ns() - max(source.st_mtime_ns, source.st_ctime_ns) < _SETTLED_NS:
            return
        with suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._is_private():
                return
            if image is not None:
                self._write(source, _IMAGE, image)
            self._write(source, _FACTS, facts.encode())
            self._prune()

    def _open(self, source: os.stat_result, suffix: str) -> IO[bytes] | None:
        """The cached file made from the one with status `source`, or None if there is none."""
        if not self._is_private():
            return None
        file = self._path(source, suffix).open("rb")
        if os.fstat(file.fileno()).st_mtime_ns == source.st_mtime_ns:
            return file
        file.close()
        return None

    def _write(self, source: os.stat_result, suffix: str, content: Buffer) -> None:
        import tempfile

        handle, name = tempfile.mkstemp(dir=self._folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(handle)
                os.utime(handle, ns=(source.st_atime_ns, source.st_mtime_ns))
            Path(name).replace(self._path(source, suffix))
        except BaseException:
            # An interruption by a person leaves nothing behind either.
            Path(name).unlink()
            raise

    def _path(self, source: os.stat_result, suffix: str) -> Path:
        numbers = source.st_dev, source.st_ino, source.st_size, source.st_mtime_ns
        name = "-".join(f"{number:x}" for number in (*numbers, source.st_ctime_ns))
        return self._folder / f"{name}{suffix}"

    def _is_private(self) -> bool:
        """Whether nobody else can put a kernel into the folder."""
        status = self._folder.stat()
        return status.st_uid == os.geteuid() and not status.st_mode & 0o022

    def _prune(self) -> None:
        files = sorted(self._folder.iterdir(), key=lambda path: path.stat().st_ctime_ns)
        # A file of neither kind is unfinished: it counts as an image.
        facts = [path for path in files if path.suffix == _FACTS]
        images = [path for path in files if path.suffix != _FACTS]
        for path in (*facts[:-_KEPT], *images[:-_KEPT]):
            path.unlink()
