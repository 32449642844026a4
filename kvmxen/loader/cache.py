"""Decompressed kernels, kept between boots. Trouble with the cache never fails a boot."""

from __future__ import annotations

import mmap
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

_KEPT = 8
# What changed less than this before it was read may have changed again since, with no other time
# to show for it: file systems' times are that coarse.
_SETTLED_NS = 2_000_000_000


class KernelCache:
    """A private folder (mode 0700, ours) of images, each named by the file that it was made from:
    its place, its size and its times, of which the change time is the system's own.

    An image has its source's modification time: one that was cut short or altered has not, and
    is not used.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, source: os.stat_result) -> mmap.mmap | None:
        """The image that the file with status `source` unpacks to, None where it is not at hand."""
        with suppress(OSError, ValueError):
            if not self._is_private():
                return None
            with self._path(source).open("rb") as file:
                if os.fstat(file.fileno()).st_mtime_ns == source.st_mtime_ns:
                    return mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ)
        return None

    def store(self, source: os.stat_result, image: Buffer) -> None:
        """Keep `image` for the next time; only the latest few are kept.

        `source` is the status that the file had before it was read.
        """
        if time.time_ns() - max(source.st_mtime_ns, source.st_ctime_ns) < _SETTLED_NS:
            return
        import tempfile

        with suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._is_private():
                return
            handle, name = tempfile.mkstemp(dir=self._folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(image)
                    file.flush()
                    os.fsync(handle)
                    os.utime(handle, ns=(source.st_atime_ns, source.st_mtime_ns))
                Path(name).replace(self._path(source))
            except BaseException:
                # A person who interrupts it leaves nothing either.
                Path(name).unlink()
                raise
            self._prune()

    def _path(self, source: os.stat_result) -> Path:
        numbers = source.st_dev, source.st_ino, source.st_size, source.st_mtime_ns
        name = "-".join(f"{number:x}" for number in (*numbers, source.st_ctime_ns))
        return self._folder / f"{name}.vmlinux"

    def _is_private(self) -> bool:
        """Whether nobody else can put a kernel there."""
        status = self._folder.stat()
        return status.st_uid == os.geteuid() and not status.st_mode & 0o022

    def _prune(self) -> None:
        files = sorted(self._folder.iterdir(), key=lambda path: path.stat().st_ctime_ns)
        for path in files[:-_KEPT]:
            path.unlink()
