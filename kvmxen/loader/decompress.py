"""Decompression with an upper bound: the output never grows past what was announced."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Protocol

from kvmxen.errors import KvmxenError

MAX_OUTPUT = 1 << 30
_LZ4_CHUNK = 8 << 20
_ZSTD_STEP = 4 << 20


class _Corrupt(Exception):
    """The stream is broken, whatever library says so."""


class _Decompressor(Protocol):
    """What bz2's, lzma's and zlib's decompressor objects have in common."""

    @property
    def eof(self) -> bool: ...

    def decompress(self, data: memoryview, max_length: int, /) -> bytes: ...


def _take(stream: _Decompressor, data: memoryview, limit: int) -> bytes:
    output = stream.decompress(data, limit)
    if len(output) < limit and not stream.eof:
        raise _Corrupt
    return output


def _gzip(data: memoryview, limit: int) -> bytes:
    import zlib

    try:
        return _take(zlib.decompressobj(wbits=31), data, limit)
    except zlib.error as error:
        raise _Corrupt from error


def _bzip2(data: memoryview, limit: int) -> bytes:
    import bz2

    try:
        return _take(bz2.BZ2Decompressor(), data, limit)
    except (OSError, ValueError) as error:
        raise _Corrupt from error


def _lzma(data: memoryview, limit: int) -> bytes:
    import lzma

    try:
        return _take(lzma.LZMADecompressor(memlimit=MAX_OUTPUT), data, limit)
    except (lzma.LZMAError, ValueError) as error:
        raise _Corrupt from error


def _lz4(data: memoryview, limit: int) -> bytes:
    import lz4.block

    # The legacy frame (Linux's lib/decompress_unlz4.c): the magic, then chunks behind their size.
    output = bytearray()
    at = 4
    while at + 4 <= len(data) and len(output) < limit:
        (size,) = struct.unpack_from("<I", data, at)
        chunk = data[at + 4 : at + 4 + size]
        # Every chunk but the last is whole: that bounds the number of steps.
        if len(chunk) < size or len(output) % _LZ4_CHUNK:
            raise _Corrupt
        try:
            output += lz4.block.decompress(chunk, uncompressed_size=_LZ4_CHUNK)
        except (lz4.block.LZ4BlockError, ValueError) as error:
            raise _Corrupt from error
        if not output:
            raise _Corrupt
        at += 4 + size
    return bytes(output)


def _zstd(data: memoryview, limit: int) -> bytes:
    import zstandard

    output = bytearray()
    try:
        with zstandard.ZstdDecompressor().stream_reader(data) as reader:
            while len(output) < limit and (step := reader.read(_ZSTD_STEP)):
                output += step
    except zstandard.ZstdError as error:
        raise _Corrupt from error
    return bytes(output)


_BY_MAGIC: tuple[tuple[bytes, Callable[[memoryview, int], bytes]], ...] = (
    (b"\x1f\x8b", _gzip),
    (b"BZh", _bzip2),
    (b"\x5d\x00\x00", _lzma),
    (b"\xfd7zXZ\x00", _lzma),
    (b"\x02\x21\x4c\x18", _lz4),
    (b"\x28\xb5\x2f\xfd", _zstd),
)


def announced_size(payload: memoryview) -> int:
    """The size in bytes that `payload` says it has when decompressed: its last le32.

    Linux's build appends it to every format (scripts/Makefile.lib, size_append) but gzip,
    which ends so by itself.
    """
    if len(payload) < 8:
        raise KvmxenError("holds an empty compressed payload; get it again")
    return int.from_bytes(payload[-4:], "little")


def decompress(payload: memoryview) -> bytes:
    """Decompress `payload`, a gzip, bzip2, lzma, xz, lz4 (legacy) or zstd stream and its size.

    Never holds more than the announced size (and one step of the format's: at most 8 MiB).
    Raises KvmxenError, phrased to follow the file's name.
    """
    size = announced_size(payload)
    by_magic = (unpack for magic, unpack in _BY_MAGIC if payload[: len(magic)] == magic)
    unpack = next(by_magic, None)
    if unpack is None:
        raise KvmxenError(
            f"holds a payload of unknown compression (it begins {payload[:4].hex(' ')}); "
            "rebuild it with gzip, bzip2, lzma, xz, lz4 or zstd"
        )
    if size > MAX_OUTPUT:
        raise KvmxenError(
            f"says that it unpacks to {size >> 20} MiB, and more than {MAX_OUTPUT >> 20} MiB "
            "is no kernel; it is corrupt"
        )
    body = payload if unpack is _gzip else payload[:-4]
    try:
        image = unpack(body, size + 1)
    except _Corrupt:
        raise KvmxenError("holds a corrupt or truncated payload; get it again") from None
    if len(image) != size:
        raise KvmxenError(
            f"does not unpack to the {size} bytes that it announces; it is corrupt, get it again"
        )
    return image
