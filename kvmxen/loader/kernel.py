"""Loads a kernel from a path. Unpacking and reading take long, so a cache keeps the results."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from kvmxen.errors import KvmxenError
from kvmxen.loader.cache import KernelCache
from kvmxen.loader.elf import ElfKernel, is_elf
from kvmxen.loader.files import RegularFile

# An uncompressed ELF file may contain everything that a debugger wants.
MAX_FILE = 1 << 30


def load_kernel(path: Path, *, cache: Path | None) -> ElfKernel:
    """The PV kernel in the file `path`: an ELF file or a bzImage, or either of them compressed.

    The folder `cache`, if given, keeps a PV kernel's facts, and its ELF file if that had to be
    unpacked. Raises KvmxenError, a sentence that begins with the file's name.
    """
    kept = KernelCache(cache) if cache else None
    with RegularFile(path) as file:
        packed = not is_elf(file.head(4))
        # A cached file may be damaged; the original then shows what is wrong, if anything is.
        if kept:
            with suppress(KvmxenError):
                if kernel := _load_kept(kept, file, packed):
                    return kernel
        image = _unpacked(file) if packed else _whole(file)
    from kvmxen.loader.elf_reader import read

    try:
        facts = read(memoryview(image))
        kernel = ElfKernel.of(image, facts)
    except KvmxenError as error:
        raise file.error(str(error)) from None
    if kept:
        kept.store(file.status, facts, image if packed else None)
    return kernel


def _load_kept(kept: KernelCache, file: RegularFile, packed: bool) -> ElfKernel | None:
    """The kernel in `file` without a look at its headers, or None if it is not cached."""
    facts = kept.facts(file.status)
    if facts is None:
        return None
    image = kept.image(file.status) if packed else _whole(file)
    return None if image is None else ElfKernel.of(image, facts)


def _whole(file: RegularFile) -> bytearray:
    return file.read(MAX_FILE, f"more than {MAX_FILE >> 20} MiB cannot be a kernel")


def _unpacked(file: RegularFile) -> bytearray:
    from kvmxen.loader.unpack import unpack

    return unpack(file)
