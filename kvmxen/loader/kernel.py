"""From a path to a kernel: bzImage or ELF, told apart by their magic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kvmxen.errors import KvmxenError
from kvmxen.loader.bzimage import find_payload, is_bzimage
from kvmxen.loader.cache import KernelCache
from kvmxen.loader.decompress import (
    HEAD,
    MAX_OUTPUT,
    decompress,
    decompress_payload,
    is_compressed,
)
from kvmxen.loader.elf import ElfKernel, check_elf, is_elf
from kvmxen.loader.files import RegularFile

if TYPE_CHECKING:
    from typing_extensions import Buffer

# An ELF file that is not compressed can have all that a debugger wants.
MAX_FILE = 1 << 30


def load_kernel(path: Path, *, cache: Path | None) -> ElfKernel:
    """The PV kernel in file `path`: an ELF file or a bzImage, or one of them compressed.

    What had to be decompressed, and is a PV kernel, is kept in folder `cache` if one is given.
    Raises KvmxenError, a sentence that begins with the file's name.
    """
    kept = KernelCache(cache) if cache else None
    with RegularFile(path) as file:
        image: Buffer | None = kept.load(file.status) if kept else None
        content = _read(file) if image is None else bytearray()
    try:
        if image is not None:
            return ElfKernel.parse(image)
        image = _unpack(content)
        kernel = ElfKernel.parse(image)
    except KvmxenError as error:
        raise file.error(str(error)) from None
    except MemoryError:
        raise file.error("unpacks to more than there is memory for") from None
    if kept and image is not content:
        kept.store(file.status, image)
    return kernel


def _read(file: RegularFile) -> bytearray:
    """What is in `file`, which begins as a kernel does."""
    head = file.head(HEAD)
    if is_elf(head):
        return file.read(MAX_FILE, f"more than {MAX_FILE >> 20} MiB is no kernel")
    if not is_bzimage(head) and not is_compressed(head):
        raise file.error("is neither a bzImage nor an ELF file; name a kernel")
    return file.read(MAX_OUTPUT, f"more than {MAX_OUTPUT >> 20} MiB is no compressed kernel")


def _unpack(image: bytearray) -> bytearray:
    """The ELF file in `image`, which is it itself if it is one."""
    if not is_elf(image) and is_compressed(image):
        image = decompress(memoryview(image), _check_kernel)
    if not is_elf(image):
        image = decompress_payload(find_payload(image), check_elf)
    return image


def _check_kernel(head: bytearray) -> None:
    if not is_elf(head) and not is_bzimage(head):
        raise KvmxenError("holds neither a bzImage nor an ELF kernel; name a kernel")
