"""Volumes: what clients ask for, and what is left on failure."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest

from kvmxen.errors import KvmxenError
from kvmxen.front.libvirt import storage
from kvmxen.front.libvirt.storage import Pool, Pools
from kvmxen.front.libvirt.wire import Code, Failure


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    pools = Pools(tmp_path / "pools")
    path = tmp_path / "images"
    path.mkdir()
    pool = pools.define(
        f"<pool type='dir'><name>p</name><target><path>{path}</path></target></pool>"
    )
    pools.start(pool)
    return pools.by_name("p")


def volume(name: str, capacity: str, format: str = "raw") -> str:  # noqa: A002
    return (
        f"<volume><name>{name}</name><capacity unit='T'>{capacity}</capacity>"
        f"<target><format type='{format}'/></target></volume>"
    )


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "-o", ""])
def test_a_name_stays_in_its_pool(pool: Pool, name: str) -> None:
    with pytest.raises(Failure):
        storage.create(pool, volume(name, "0"))
    assert list(pool.path.iterdir()) == []


def test_a_volume_too_large_leaves_nothing(pool: Pool) -> None:
    with pytest.raises(KvmxenError, match="cannot create"):
        storage.create(pool, volume("big", "9" * 18))
    assert list(pool.path.iterdir()) == []


@pytest.mark.parametrize(
    ("backing", "features"), [(512, 0), (0, 4)], ids=["backing file", "data file"]
)
def test_an_image_that_names_another_file_is_not_copied(
    pool: Pool, backing: int, features: int
) -> None:
    image = pool.path / "image.qcow2"
    header = struct.pack(">4sIQ56xQ", b"QFI\xfb", 3, backing, features)
    image.write_bytes(header.ljust(512, b"\0"))
    with pytest.raises(Failure, match="names another file") as failure:
        storage.create(pool, volume("copy", "1"), storage.volume(pool, "image.qcow2"))
    assert failure.value.code == Code.UNSUPPORTED
    assert [path.name for path in pool.path.iterdir()] == ["image.qcow2"]


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is missing")
def test_an_image_is_copied(pool: Pool) -> None:
    image = volume("image.qcow2", "0", "qcow2").replace("'T'>0", "'M'>3")
    source = storage.create(pool, image)
    assert source.capacity == 3 << 20
    assert storage.create(pool, volume("copy", "1"), source).capacity == 3 << 20
