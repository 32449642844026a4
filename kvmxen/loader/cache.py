"""Decompressed kernels, kept between boots. Trouble with the cache never fails a boot."""

from __future__ import annotations

import hashlib
import os
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path

_KEPT = 8
_CHECKSUM_SIZE = 4


class KernelCache:
    """A private folder (mode 0700, ours) of images named by the SHA-256 of their payload.

    A file is the image and its CRC-32: one that was cut short or altered is not used.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, payload: memoryview, size: int) -> bytes | None:
        """The image of `size` bytes that `payload` unpacks to, None where it is not at hand."""
        with suppress(OSError):
            if not self._is_private():
                return None
            with self._path(payload).open("rb") as file:
                if os.fstat(file.fileno()).st_size != size + _CHECKSUM_SIZE:
                    return None
                image, checksum = file.read(size), file.read(_CHECKSUM_SIZE)
            if checksum == _checksum(image):
                return image
        return None

    def store(self, payload: memoryview, image: bytes) -> None:
        """Keep `image` for the next time; only the latest few are kept."""
        with suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._is_private():
                return
            handle, name = tempfile.mkstemp(dir=self._folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(image)
                    file.write(_checksum(image))
                Path(name).replace(self._path(payload))
            except OSError:
                Path(name).unlink()
                raise
            self._prune()

    def _path(self, payload: memoryview) -> Path:
        return self._folder / f"{hashlib.sha256(payload).hexdigest()}.vmlinux"

    def _is_private(self) -> bool:
        """Whether nobody else can put a kernel there."""
        status = self._folder.stat()
        return status.st_uid == os.geteuid() and not status.st_mode & 0o022

    def _prune(self) -> None:
        files = sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime)
        for path in files[:-_KEPT]:
            path.unlink()


def _checksum(image: bytes) -> bytes:
    return zlib.crc32(image).to_bytes(_CHECKSUM_SIZE, "little")
