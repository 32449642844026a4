"""A disk whose file grows while it is in use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmxen.backends import xenbus
from kvmxen.errors import KvmxenError
from kvmxen.xen.abi.blkif import BlkifOp, BlkifStatus
from kvmxen.xen.abi.xenbus import XenbusState as State
from tests.e2e.disks import run
from tests.unit.backends.block.frontend import Disk, Seg
from tests.unit.backends.fake_domain import wait_until

SECTORS = 1024
OKAY, ERROR = BlkifStatus.OKAY, BlkifStatus.ERROR


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """A disk that is checked only on request."""
    monkeypatch.setattr(xenbus, "_LOOK_EVERY", 3600.0)
    path = tmp_path / "disk"
    path.write_bytes(bytes(SECTORS * 512))
    disk = Disk(path)
    yield disk
    disk.end()


def refresh(disk: Disk) -> None:
    disk.bus.refresh("vbd", disk.spec.number)


def states(disk: Disk) -> list[State | None]:
    """The backend's states as a watching frontend sees them."""
    found: list[State | None] = []
    disk.domain.store.watch(
        f"{disk.back}/state", lambda _path: found.append(disk.domain.state(disk.back))
    )
    found.clear()
    return found


def test_the_guest_is_told(disk: Disk) -> None:
    """Every queue then serves requests beyond the old end."""
    disk.connect(queues=2)
    _, ref = disk.page(b"data")
    seen = states(disk)
    os.truncate(disk.path, 2 * SECTORS * 512 + 100)
    for ring in disk.queues:
        assert ring.do(BlkifOp.WRITE, SECTORS, Seg(ref)) is ERROR
    assert disk.node("sectors") == str(SECTORS)
    refresh(disk)
    assert disk.node("sectors") == str(2 * SECTORS)
    assert seen == [State.CONNECTED]
    for ring in disk.queues:
        assert ring.do(BlkifOp.WRITE, 2 * SECTORS - 8, Seg(ref)) is OKAY
        assert ring.do(BlkifOp.WRITE, 2 * SECTORS, Seg(ref)) is ERROR
    refresh(disk)
    assert seen == [State.CONNECTED]


def test_a_frontend_that_comes_later(disk: Disk) -> None:
    seen = states(disk)
    os.truncate(disk.path, 2 * SECTORS * 512)
    refresh(disk)
    assert seen == []
    assert disk.node("sectors") == str(2 * SECTORS)
    ring = disk.connect()
    assert disk.node("sectors") == str(2 * SECTORS)
    _, ref = disk.page(b"data")
    assert ring.do(BlkifOp.WRITE, 2 * SECTORS - 8, Seg(ref)) is OKAY


def test_one_that_is_to_go(disk: Disk) -> None:
    """The backend does not announce Connected again: the device must close."""
    disk.connect()
    assert disk.bus.detach("vbd", disk.spec.number, 0) is False
    seen = states(disk)
    os.truncate(disk.path, 2 * SECTORS * 512)
    refresh(disk)
    assert seen == []
    assert disk.domain.state(disk.back) is State.CLOSING


@pytest.mark.parametrize("size", [0, 512, (SECTORS - 1) * 512, SECTORS * 512 - 1])
def test_a_file_that_shrank(disk: Disk, size: int) -> None:
    disk.connect()
    os.truncate(disk.path, size)
    with pytest.raises(KvmxenError, match=rf"{disk.path} is smaller than xvda, .* can only grow"):
        refresh(disk)
    assert disk.node("sectors") == str(SECTORS)
    os.truncate(disk.path, SECTORS * 512)


def test_an_image_of_another_format(tmp_path: Path) -> None:
    path = tmp_path / "image"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
    disk = Disk(path, "format=qcow2")
    with pytest.raises(KvmxenError, match=r"xvda .* has the format qcow2: only raw disks can grow"):
        refresh(disk)
    disk.end()


def test_it_is_seen_without_being_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that cannot be measured, or shrank, does not stop the others."""
    monkeypatch.setattr(xenbus, "_LOOK_EVERY", 0.001)
    paths = [tmp_path / name for name in ("shrinks", "grows")]
    for path in paths:
        path.write_bytes(bytes(SECTORS * 512))
    shrinks = Disk(paths[0])
    grows = Disk(paths[1], "target=xvdb", shrinks)
    grows.connect()
    os.truncate(paths[0], 0)
    os.truncate(paths[1], 3 * SECTORS * 512)
    wait_until(lambda: grows.node("sectors") == str(3 * SECTORS))
    assert shrinks.node("sectors") == str(SECTORS)
    shrinks.end()
