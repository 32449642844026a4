"""From a path to a kernel: bzImage or ELF, told apart by their magic."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from kvmxen.errors import KvmxenError
from kvmxen.loader.bzimage import find_payload, is_bzimage
from kvmxen.loader.cache import KernelCache
from kvmxen.loader.decompress import MAX_OUTPUT, decompress
from kvmxen.loader.elf import MAGIC, ElfKernel

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAX_FILE = MAX_OUTPUT
_GZIP_MAGIC = b"\x1f\x8b"


def load_kernel(path: Path, *, cache: Path | None) -> ElfKernel:
    """The PV kernel in file `path`: an ELF, one that gzip compressed, or a bzImage.

    What had to be decompressed is kept in folder `cache` where one is given. Raises
    KvmxenError, a sentence that begins with the file's name.
    """
    kept = KernelCache(cache) if cache else None
    with _open(path) as file:
        status = os.fstat(file.fileno())
        image: Buffer | None = kept.load(status) if kept else None
        if image is None:
            content = _read(path, file, status.st_size)
    try:
        if image is None:
            image = _unpack(content)
            if kept and image is not content:
                kept.store(status, image)
        return ElfKernel.parse(image)
    except KvmxenError as error:
        raise KvmxenError(f"{path} {error}") from None


def _open(path: Path) -> BinaryIO:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise KvmxenError(f"{path} is a directory; name the kernel file in it")
        if not stat.S_ISREG(status.st_mode):
            raise KvmxenError(f"{path} is no regular file; copy the kernel into one")
        if not status.st_size:
            raise KvmxenError(f"{path} is empty; get it again")
        if status.st_size > MAX_FILE:
            raise KvmxenError(
                f"{path} has {status.st_size >> 20} MiB, and more than {MAX_FILE >> 20} MiB "
                "is no kernel; name a bzImage or an ELF kernel"
            )
        return path.open("rb")
    except FileNotFoundError:
        raise KvmxenError(f"{path} does not exist; name a kernel file") from None
    except PermissionError:
        raise KvmxenError(f"{path} cannot be read by you; get the right to read it") from None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def _read(path: Path, file: BinaryIO, size: int) -> bytes:
    try:
        return file.read(size)
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> KvmxenError:
    return KvmxenError(f"{path} cannot be read: {error}; name another kernel file")


def _unpack(image: bytes) -> bytes:
    """The ELF file in `image`, which is it itself where it is one."""
    if image.startswith(MAGIC):
        return image
    if image.startswith(_GZIP_MAGIC):
        return decompress(memoryview(image))
    if is_bzimage(image):
        return decompress(find_payload(image))
    raise KvmxenError("is neither a bzImage nor an ELF file; name a kernel")
