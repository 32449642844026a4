"""The place of a bzImage's payload."""

from __future__ import annotations

import pytest

from kvmxen.errors import KvmxenError
from kvmxen.loader.bzimage import SETUP_HEADER, find_payload, is_bzimage
from tests.unit.loader.images import bzimage


def test_the_header_ends_with_the_payload_fields() -> None:
    assert 0x1F1 + SETUP_HEADER.sizeof() == 0x250


def test_the_payload_is_found() -> None:
    image = bzimage(b"the payload")
    assert is_bzimage(image)
    assert bytes(find_payload(image)) == b"the payload"


def test_no_setup_sectors_means_four() -> None:
    image = bytearray(bzimage(b"the payload", offset=0x280))
    image[0x1F1] = 0
    image[0x248:0x24C] = (0x80).to_bytes(4, "little")
    assert bytes(find_payload(bytes(image))) == b"the payload"


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (bzimage(b"payload")[:0x210], "ends within its header"),
        (bzimage(bytes(1000))[:-500], "is a truncated bzImage: it has 2740 of 3176 bytes"),
        (bzimage(b"payload", version=0x207), "boot protocol 2.07, too old"),
    ],
)
def test_refused(image: bytes, message: str) -> None:
    with pytest.raises(KvmxenError, match=message):
        find_payload(image)


@pytest.mark.parametrize("image", [b"", b"\x7fELF", bytes(0x202) + b"Hdr", b"text\n" * 1000])
def test_no_bzimage(image: bytes) -> None:
    assert not is_bzimage(image)
