"""Volumes: what clients ask for, and what is left on failure."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path
from uuid import uuid4

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
    source.path.with_name("plain").write_bytes(b"what was there")
    # A copy may be larger, and is never smaller.
    assert storage.create(pool, volume("copy", "0"), source).capacity == 3 << 20
    larger = volume("larger.qcow2", "1", "qcow2").replace("'T'>1", "'M'>5")
    assert storage.create(pool, larger, storage.volume(pool, "copy")).capacity == 5 << 20
    grown = volume("grown", "1").replace("'T'>1", "'K'>4")
    plain = storage.volume(pool, "plain")
    assert storage.create(pool, grown, plain).path.read_bytes() == b"what was there".ljust(
        4096, b"\0"
    )


def test_what_is_listed_is_found(pool: Pool) -> None:
    for name in ("a b.iso", ".hidden", "\N{SNOWMAN}.img", "-o", "line\nbreak"):
        (pool.path / name).touch()
    (pool.path / "folder").mkdir()
    names = [one.path.name for one in storage.volumes(pool)]
    assert names == ["-o", ".hidden", "a b.iso", "\N{SNOWMAN}.img"]
    assert [storage.volume(pool, name).path.name for name in names] == names
    for name in ("..", ".", "", "folder", "../images/-o", "line\nbreak"):
        with pytest.raises(Failure, match="has no volume"):
            storage.volume(pool, name)


def test_a_pool_is_defined_again(pool: Pool, tmp_path: Path) -> None:
    pools = Pools(tmp_path / "pools")
    text = storage.pool_xml(pool)
    assert pools.define(text) == pool
    for changed, sentence in (
        (text.replace(str(pool.uuid), str(uuid4())), "the storage pool p has the UUID"),
        (text.replace("images", "others"), "the storage pool p is active"),
        (text.replace(">p<", ">q<"), "the storage pool p has /"),
        (text.replace(">p<", ">q<").replace("images", "others"), "the storage pool p has the UUID"),
    ):
        with pytest.raises(Failure, match=sentence):
            pools.define(changed)
    pools.stop(pool)
    assert pools.define(text.replace("images", "others")).path == tmp_path / "others"
    assert [one.name for one in pools] == ["p"]
