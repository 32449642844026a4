"""What a client sends into a volume."""

from __future__ import annotations

from pathlib import Path

from kvmxen.front.libvirt.wire import Code, Failure


class Upload:
    """Writes to the file `path` from `offset` on, at most `length` bytes unless that is 0."""

    def __init__(self, path: Path, offset: int, length: int) -> None:
        self._path = path
        self._left = length or None
        try:
            self._file = path.open("r+b", buffering=0)
        except OSError as error:
            raise Failure(Code.FAILED, f"cannot write {path}: {error.strerror}") from None
        try:
            self._file.seek(offset)
        except (OSError, OverflowError):
            self._file.close()
            raise Failure(Code.INVALID, f"{path} has no place {offset}") from None

    def write(self, data: bytes) -> None:
        """Write the next bytes."""
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                raise Failure(Code.INVALID, "the client sends more than it has announced")
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise Failure(Code.FAILED, f"cannot write {self._path}: {error.strerror}") from None

    def close(self) -> None:
        """Write no more."""
        self._file.close()
