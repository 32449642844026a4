"""Every compression of the kernel build, and what a broken or lying stream comes to."""

from __future__ import annotations

import bz2
import lzma
import struct
import tracemalloc
from collections.abc import Callable

import lz4.block
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from kvmxen.errors import KvmxenError
from kvmxen.loader.decompress import MAX_OUTPUT, decompress
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
ALL = pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS.keys())


def refused(payload: bytes) -> str:
    with pytest.raises(KvmxenError) as caught:
        decompress(memoryview(payload))
    assert caught.value.exit_status == 1
    return str(caught.value)


@ALL
@pytest.mark.parametrize("size", [1, 100_000])
def test_the_image_comes_back(pack: Callable[[bytes], bytes], size: int) -> None:
    image = (b"a kernel's text, " * (size // 17 + 1))[:size]
    assert decompress(memoryview(pack(image))) == image


@pytest.mark.parametrize("size", [CHUNK, CHUNK + 1, 3 * CHUNK - 1])
def test_lz4_of_several_chunks(size: int) -> None:
    image = (b"a kernel's text, " * (size // 17 + 1))[:size]
    assert decompress(memoryview(lz4_legacy(image))) == image


def test_xz_with_the_filter_of_the_kernel_build() -> None:
    image = bytes(range(256)) * 100
    filters = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "dict_size": 32 << 20}]
    stream = lzma.compress(image, check=lzma.CHECK_CRC32, filters=filters)
    assert decompress(memoryview(sized(stream, image))) == image


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
def test_a_bomb_that_says_so(pack: Callable[[bytes], bytes]) -> None:
    payload = pack(b"x")[:-4] + struct.pack("<I", MAX_OUTPUT + (1 << 20))
    assert "unpacks to 1025 MiB" in refused(payload)


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
        result = decompress(memoryview(payload))
    except KvmxenError:
        return
    assert len(result) == int.from_bytes(payload[-4:], "little")
