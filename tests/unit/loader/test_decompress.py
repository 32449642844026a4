"""Every compression of the kernel build, and the errors of broken or lying streams."""

from __future__ import annotations

import bz2
import lzma
import struct
import tracemalloc
from collections.abc import Callable, Iterator

import lz4.block
import lz4.frame
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from kvmxen.errors import KvmxenError
from kvmxen.loader import decompress as module
from kvmxen.loader.decompress import HEAD, MAX_OUTPUT, decompress, decompress_payload, pieces
from tests.unit.loader.images import gzip

CHUNK = 8 << 20


def sized(stream: bytes, image: bytes) -> bytes:
    return stream + struct.pack("<I", len(image))


def lz4_legacy(image: bytes) -> bytes:
    stream = b"\x02\x21\x4c\x18"
    for at in range(0, len(image), CHUNK):
        block = lz4.block.compress(image[at : at + CHUNK], store_size=False)
        stream += struct.pack("<I", len(block)) + block
    return sized(stream, image)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip,
    "bzip2": lambda image: sized(bz2.compress(image), image),
    "lzma": lambda image: sized(lzma.compress(image, lzma.FORMAT_ALONE), image),
    "xz": lambda image: sized(lzma.compress(image), image),
    "lz4": lz4_legacy,
    "zstd": lambda image: sized(zstandard.compress(image), image),
}
# The same from a person's tools, without an appended size.
STREAMS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip,
    "bzip2": bz2.compress,
    "lzma": lambda image: lzma.compress(image, lzma.FORMAT_ALONE),
    "xz": lzma.compress,
    "lz4": lz4.frame.compress,
    "lz4 legacy": lambda image: lz4_legacy(image)[:-4],
    "zstd": zstandard.compress,
}
EACH = pytest.mark.parametrize("compress", STREAMS.values(), ids=STREAMS.keys())
ALL = pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS.keys())


def refused(payload: bytes) -> str:
    with pytest.raises(KvmxenError) as caught:
        decompress_payload(memoryview(payload))
    assert caught.value.exit_status == 1
    return str(caught.value)


@ALL
@pytest.mark.parametrize("size", [1, 100_000])
def test_the_image_comes_back(pack: Callable[[bytes], bytes], size: int) -> None:
    image = (b"a kernel's text, " * (size // 17 + 1))[:size]
    assert decompress_payload(memoryview(pack(image))) == image


@EACH
@pytest.mark.parametrize("size", [1, HEAD, 3 << 20])
def test_a_stream_without_its_size(compress: Callable[[bytes], bytes], size: int) -> None:
    image = (b"a kernel's text, " * (size // 17 + 1))[:size]
    assert decompress(memoryview(compress(image))) == image


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz", "lz4", "zstd"])
def test_streams_one_after_the_other(name: str) -> None:
    """As multi-threaded tools create them."""
    compress = STREAMS[name]
    first, second = bytes(range(256)) * 999, b"more" * 300_000
    assert decompress(memoryview(compress(first) + compress(second))) == first + second


@pytest.mark.parametrize("image", [b"", b"x"])
def test_streams_without_end(image: bytes) -> None:
    """Millions of nearly empty streams fit in a file, and each costs more than its length."""
    with pytest.raises(KvmxenError, match="corrupt"):
        decompress(memoryview(gzip(image) * (module._MAX_STREAMS + 1)))


def test_as_many_streams_as_bgzip_makes_of_the_largest_image() -> None:
    count = (MAX_OUTPUT >> 16) + 1
    assert decompress(memoryview(gzip(b"x") * count)) == b"x" * count


@EACH
def test_junk_behind_a_stream(compress: Callable[[bytes], bytes]) -> None:
    with pytest.raises(KvmxenError, match="corrupt"):
        decompress(memoryview(compress(b"a kernel" * 1000) + b"junk of sixteen!"))


@EACH
def test_no_piece_is_large(compress: Callable[[bytes], bytes]) -> None:
    """Python handles signals between two pieces, so no piece of any stream may take long."""
    image = bytes(20 << 20)
    sizes = [len(piece) for piece in pieces(memoryview(compress(image)))]
    assert sum(sizes) == len(image)
    assert max(sizes) <= CHUNK


@EACH
def test_a_stream_is_left_as_soon_as_its_beginning_is_wrong(
    compress: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = 0

    def counted(data: memoryview) -> Iterator[bytes]:
        nonlocal taken
        for piece in pieces(data):
            taken += len(piece)
            yield piece

    def refuse(head: bytearray) -> None:
        raise KvmxenError(f"begins {bytes(head[:4])!r}")

    stream = compress(bytes(64 << 20))
    monkeypatch.setattr(module, "pieces", counted)
    with pytest.raises(KvmxenError, match="begins"):
        decompress(memoryview(stream), refuse)
    assert taken <= CHUNK


@EACH
def test_no_more_than_the_limit_is_unpacked(
    compress: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = compress(bytes(40 << 20))
    monkeypatch.setattr(module, "MAX_OUTPUT", 8 << 20)
    with pytest.raises(KvmxenError, match="unpacks to more than 8 MiB"):
        decompress(memoryview(stream))


@pytest.mark.parametrize("size", [CHUNK, CHUNK + 1, 3 * CHUNK - 1])
def test_lz4_of_several_chunks(size: int) -> None:
    image = (b"a kernel's text, " * (size // 17 + 1))[:size]
    assert decompress_payload(memoryview(lz4_legacy(image))) == image


def test_xz_with_the_filter_of_the_kernel_build() -> None:
    image = bytes(range(256)) * 100
    filters = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "dict_size": 32 << 20}]
    stream = lzma.compress(image, check=lzma.CHECK_CRC32, filters=filters)
    assert decompress_payload(memoryview(sized(stream, image))) == image


@ALL
def test_a_truncated_stream(pack: Callable[[bytes], bytes]) -> None:
    image = bytes(range(256)) * 100
    payload = pack(image)
    assert "get it again" in refused(payload[: len(payload) // 2] + payload[-4:])


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz"])  # the kernel's others have no checksum
def test_a_stream_with_its_middle_altered(name: str) -> None:
    payload = bytearray(PACKERS[name](bytes(range(256)) * 100))
    payload[len(payload) // 2] ^= 1
    assert "corrupt" in refused(bytes(payload))


@ALL
@pytest.mark.parametrize("announced", [0, 10, 25_599, 25_601, MAX_OUTPUT])
def test_a_wrong_size(pack: Callable[[bytes], bytes], announced: int) -> None:
    payload = pack(bytes(range(256)) * 100)[:-4] + struct.pack("<I", announced)
    assert "corrupt" in refused(payload)


@ALL
def test_a_bomb_is_not_unpacked(pack: Callable[[bytes], bytes]) -> None:
    payload = pack(bytes(64 << 20))[:-4] + struct.pack("<I", 4096)
    tracemalloc.start()
    try:
        assert "corrupt" in refused(payload)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 34 << 20


@ALL
def test_an_image_is_held_once(pack: Callable[[bytes], bytes]) -> None:
    payload = pack(bytes(64 << 20))
    tracemalloc.start()
    try:
        image = decompress_payload(memoryview(payload))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(image) == 64 << 20
    # A growing bytearray reserves an eighth more.
    assert peak < (72 + 34) << 20


@ALL
def test_a_bomb_that_says_so(pack: Callable[[bytes], bytes]) -> None:
    payload = pack(b"x")[:-4] + struct.pack("<I", MAX_OUTPUT + (1 << 20))
    assert f"unpacks to {(MAX_OUTPUT >> 20) + 1} MiB" in refused(payload)


def test_lz4_chunks_that_give_nothing_end_the_stream() -> None:
    whole = lz4_legacy(b"x" * CHUNK)[:-4]
    empty = struct.pack("<I", 1) + b"\0"
    assert "corrupt" in refused(whole + empty * 3 + struct.pack("<I", CHUNK))


@pytest.mark.parametrize("tail", [b"", b"\0\0\0\0\0\0", b"\5\0\0\0\x10\x41"])
def test_an_lz4_stream_without_whole_chunks(tail: bytes) -> None:
    assert "get it again" in refused(b"\x02\x21\x4c\x18" + tail + struct.pack("<I", 9))


def test_lz4_chunks_that_are_not_whole_end_the_stream() -> None:
    block = lz4.block.compress(b"x" * 100, store_size=False)
    chunk = struct.pack("<I", len(block)) + block
    payload = b"\x02\x21\x4c\x18" + chunk + chunk + struct.pack("<I", 200)
    assert "corrupt" in refused(payload)


def test_unknown_compression() -> None:
    message = refused(b"\x89LZO\x00\r\n\x1a\n" + bytes(40))
    assert "unknown compression (it begins 89 4c 5a 4f)" in message


@pytest.mark.parametrize("payload", [b"", b"\x1f\x8b", b"1234567"])
def test_no_payload(payload: bytes) -> None:
    assert "empty compressed payload" in refused(payload)


@given(st.sampled_from(sorted(PACKERS)), st.integers(0, 2000), st.binary(min_size=1, max_size=8))
def test_junk_is_only_ever_refused(name: str, at: int, junk: bytes) -> None:
    image = bytes(range(256)) * 8
    payload = bytearray(PACKERS[name](image))
    payload[at : at + len(junk)] = junk
    try:
        result = decompress_payload(memoryview(payload))
    except KvmxenError:
        return
    assert len(result) == int.from_bytes(payload[-4:], "little")
