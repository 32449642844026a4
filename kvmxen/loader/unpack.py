"""Extracts the ELF file from a compressed kernel: a bzImage, or any kernel compressed whole."""

from __future__ import annotations

from kvmxen.errors import KvmxenError
from kvmxen.loader.bzimage import find_payload, is_bzimage
from kvmxen.loader.decompress import (
    HEAD,
    MAX_OUTPUT,
    decompress,
    decompress_payload,
    is_compressed,
)
from kvmxen.loader.elf import check_elf, is_elf
from kvmxen.loader.files import RegularFile


def unpack(file: RegularFile) -> bytearray:
    """The ELF file in `file`; raises KvmxenError, a sentence that begins with the file's name."""
    head = file.head(HEAD)
    if not is_bzimage(head) and not is_compressed(head):
        raise file.error("is neither a bzImage nor an ELF file; give a kernel")
    content = file.read(
        MAX_OUTPUT, f"more than {MAX_OUTPUT >> 20} MiB cannot be a compressed kernel"
    )
    try:
        return _unpack(content)
    except KvmxenError as error:
        raise file.error(str(error)) from None
    except MemoryError:
        raise file.error("unpacks to more than fits into memory") from None


def _unpack(image: bytearray) -> bytearray:
    if is_compressed(image):
        image = decompress(memoryview(image), _check_kernel)
    if not is_elf(image):
        image = decompress_payload(find_payload(image), check_elf)
    return image


def _check_kernel(head: bytearray) -> None:
    if not is_elf(head) and not is_bzimage(head):
        raise KvmxenError("holds neither a bzImage nor an ELF kernel; give a kernel")
