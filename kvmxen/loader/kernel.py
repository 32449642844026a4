"""From a path to a kernel: bzImage or ELF, told apart by their magic."""

from __future__ import annotations

import stat
from pathlib import Path

from kvmxen.errors import KvmxenError
from kvmxen.loader.bzimage import find_payload, is_bzimage
from kvmxen.loader.cache import KernelCache
from kvmxen.loader.decompress import MAX_OUTPUT, announced_size, decompress
from kvmxen.loader.elf import MAGIC, ElfKernel

MAX_FILE = MAX_OUTPUT
_GZIP_MAGIC = b"\x1f\x8b"


def load_kernel(path: Path, *, cache: Path | None) -> ElfKernel:
    """The PV kernel in file `path`: an ELF, one that gzip compressed, or a bzImage.

    What had to be decompressed is kept in folder `cache` where one is given. Raises
    KvmxenError, a sentence that begins with the file's name.
    """
    image = _read(path)
    try:
        return ElfKernel.parse(_unpack(image, cache))
    except KvmxenError as error:
        raise KvmxenError(f"{path} {error}") from None


def _read(path: Path) -> bytes:
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
        with path.open("rb") as file:
            return file.read(status.st_size)
    except FileNotFoundError:
        raise KvmxenError(f"{path} does not exist; name a kernel file") from None
    except PermissionError:
        raise KvmxenError(f"{path} cannot be read by you; get the right to read it") from None
    except (OSError, ValueError) as error:
        raise KvmxenError(f"{path} cannot be read: {error}; name another kernel file") from None


def _unpack(image: bytes, cache: Path | None) -> bytes:
    if image.startswith(MAGIC):
        return image
    if image.startswith(_GZIP_MAGIC):
        return _decompress(memoryview(image), cache)
    if is_bzimage(image):
        return _decompress(find_payload(image), cache)
    raise KvmxenError("is neither a bzImage nor an ELF file; name a kernel")


def _decompress(payload: memoryview, cache: Path | None) -> bytes:
    if cache is None:
        return decompress(payload)
    kept = KernelCache(cache)
    image = kept.load(payload, announced_size(payload))
    if image is None:
        image = decompress(payload)
        kept.store(payload, image)
    return image
