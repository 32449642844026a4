"""Decompresses in small steps: the output is bounded, and checked as soon as it begins."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Protocol

from kvmxen.errors import KvmxenError

# Four times the size of the largest of Debian's kernels.
MAX_OUTPUT = 256 << 20
# How much of the output's beginning a check sees, in bytes: enough to recognize a bzImage.
HEAD = 0x210
_INPUT = 64 << 10
_STEP = 1 << 20
_LZ4_CHUNK = 8 << 20
# Four times what xz -9 needs.
_LZMA_MEMORY = 256 << 20

# The most streams in an image: each stream's beginning is copied, however small it is. The tools
# that create many, pbzip2 and bgzip, create at most 4,097 from the largest image.
_MAX_STREAMS = 8192

# Raises KvmxenError if the output begins with something unexpected.
Check = Callable[[bytearray], None]


class _Corrupt(Exception):
    """The stream is broken, whichever library reports it."""


class _Stream(Protocol):
    """The common interface of the decompressor objects of bz2, lzma and lz4.frame."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes | None: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _GzipStream:
    """zlib's decompressor object with the interface of the others."""

    def __init__(self) -> None:
        import zlib

        self._stream = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def needs_input(self) -> bool:
        return not self._stream.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._stream.decompress(self._stream.unconsumed_tail + data, max_length)


def _steps(
    data: memoryview, make: Callable[[], _Stream], *errors: type[Exception]
) -> Iterator[bytes]:
    """Decompress one stream after another, each with a new object from `make`."""
    at = streams = 0
    while at < len(data):
        streams += 1
        if streams > _MAX_STREAMS:
            raise _Corrupt
        stream = make()
        while not stream.eof:
            hungry = stream.needs_input
            piece = bytes(data[at : at + _INPUT]) if hungry else b""
            at += len(piece)
            try:
                output = stream.decompress(piece, _STEP)
            except errors as error:
                raise _Corrupt from error
            if hungry and not piece and not output and not stream.eof:
                raise _Corrupt
            yield output
        at -= len(stream.unused_data or b"")


def _gzip(data: memoryview) -> Iterator[bytes]:
    import zlib

    return _steps(data, _GzipStream, zlib.error)


def _bzip2(data: memoryview) -> Iterator[bytes]:
    import bz2

    return _steps(data, bz2.BZ2Decompressor, OSError, ValueError)


def _lzma(data: memoryview) -> Iterator[bytes]:
    import lzma

    def make() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(memlimit=_LZMA_MEMORY)

    return _steps(data, make, lzma.LZMAError, ValueError)


def _lz4_frame(data: memoryview) -> Iterator[bytes]:
    import lz4.frame

    return _steps(data, lz4.frame.LZ4FrameDecompressor, RuntimeError)


def _lz4_legacy(data: memoryview) -> Iterator[bytes]:
    import lz4.block

    # Linux's lib/decompress_unlz4.c: the magic, then chunks, each after its size.
    at, whole = 4, True
    while at + 4 <= len(data):
        (size,) = struct.unpack_from("<I", data, at)
        chunk = data[at + 4 : at + 4 + size]
        # Every chunk but the last is full, and none is empty.
        if len(chunk) < size or not whole:
            raise _Corrupt
        try:
            output: bytes = lz4.block.decompress(chunk, uncompressed_size=_LZ4_CHUNK)
        except (lz4.block.LZ4BlockError, ValueError) as error:
            raise _Corrupt from error
        if not output:
            raise _Corrupt
        yield output
        at, whole = at + 4 + size, len(output) == _LZ4_CHUNK


def _zstd(data: memoryview) -> Iterator[bytes]:
    import zstandard

    try:
        with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
            while step := reader.read(_STEP):
                yield step
    except zstandard.ZstdError as error:
        raise _Corrupt from error


_BY_MAGIC: dict[bytes, Callable[[memoryview], Iterator[bytes]]] = {
    b"\x1f\x8b": _gzip,
    b"BZh": _bzip2,
    b"\x5d\x00\x00": _lzma,
    b"\xfd7zXZ\x00": _lzma,
    b"\x02\x21\x4c\x18": _lz4_legacy,
    b"\x04\x22\x4d\x18": _lz4_frame,
    b"\x28\xb5\x2f\xfd": _zstd,
}


def is_compressed(head: bytes | bytearray) -> bool:
    """Whether data that begins with `head` is a compressed stream that pieces() knows."""
    return head.startswith(tuple(_BY_MAGIC))


def _format_of(data: memoryview) -> Callable[[memoryview], Iterator[bytes]]:
    for magic, unpack in _BY_MAGIC.items():
        if data[: len(magic)] == magic:
            return unpack
    raise KvmxenError(
        f"holds a payload of unknown compression (it begins {data[:4].hex(' ')}); "
        "rebuild it with gzip, bzip2, lzma, xz, lz4 or zstd"
    )


def pieces(data: memoryview) -> Iterator[bytes]:
    """Unpack the compressed `data` in pieces of at most 8 MiB, some of them empty.

    A piece takes milliseconds; signals are handled between pieces. Raises KvmxenError, phrased to
    follow the file's name.
    """
    try:
        yield from _format_of(data)(data)
    except _Corrupt:
        raise KvmxenError("holds a corrupt or truncated payload; get it again") from None


def _anything(_head: bytearray) -> None:
    pass


def decompress(data: memoryview, check: Check = _anything) -> bytearray:
    """Unpack the compressed `data`, to at most MAX_OUTPUT bytes.

    The output is held once, with one piece beside it. `check` sees its first HEAD bytes as soon as
    they exist. Raises KvmxenError, phrased to follow the file's name.
    """
    too_much = f"unpacks to more than {MAX_OUTPUT >> 20} MiB, too much for a kernel; it is corrupt"
    return _collect(data, check, MAX_OUTPUT, too_much)


def decompress_payload(payload: memoryview, check: Check = _anything) -> bytearray:
    """Unpack the payload of a bzImage, which states the size of its kernel."""
    size = announced_size(payload)
    body = payload if _format_of(payload) is _gzip else payload[:-4]
    if size > MAX_OUTPUT:
        raise KvmxenError(
            f"says that it unpacks to {size >> 20} MiB, and more than {MAX_OUTPUT >> 20} MiB "
            "is no kernel; it is corrupt"
        )
    wrong = f"does not unpack to the {size} bytes that it announces; it is corrupt, get it again"
    image = _collect(body, check, size, wrong)
    if len(image) != size:
        raise KvmxenError(wrong)
    return image


def announced_size(payload: memoryview) -> int:
    """The size in bytes that `payload` claims for its decompressed data: its last le32.

    Linux's build appends it to every format (scripts/Makefile.lib, size_append) except gzip, which
    ends with it anyway.
    """
    if len(payload) < 8:
        raise KvmxenError("holds an empty compressed payload; get it again")
    return int.from_bytes(payload[-4:], "little")


def _collect(data: memoryview, check: Check, most: int, too_much: str) -> bytearray:
    """Unpack all of `data`; beyond `most` bytes, raise an error with the sentence `too_much`."""
    image = bytearray()
    unchecked = True
    for piece in pieces(data):
        image += piece
        if unchecked and len(image) >= HEAD:
            check(image)
            unchecked = False
        if len(image) > most:
            raise KvmxenError(too_much)
    if unchecked:
        check(image)
    return image
