"""Frontends that ask for more than the host has get an error, and another attempt is served."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmxen.backends.block.vbd import MAX_QUEUES
from kvmxen.xen.abi.blkif import BlkifOp, BlkifStatus
from kvmxen.xen.abi.xenbus import XenbusState as State
from tests.unit.backends.block.frontend import Disk
from tests.unit.backends.block.scarcity import descriptors, open_descriptors


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.write_bytes(bytes(4 << 20))
    disk = Disk(path)
    yield disk
    disk.end()


def assert_serves(disk: Disk) -> None:
    """Check that a frontend that starts again is served by all of its queues."""
    disk.domain.set(f"{disk.front}/state", int(State.CLOSED))
    disk.become(State.CLOSED)
    disk.domain.set(f"{disk.front}/state", int(State.INITIALISING))
    disk.become(State.INIT_WAIT)
    disk.connect(queues=MAX_QUEUES)
    for queue in disk.queues:
        assert queue.do(BlkifOp.FLUSH_DISKCACHE, 0) is BlkifStatus.OKAY


@pytest.mark.parametrize("count", range(5))
def test_out_of_descriptors(disk: Disk, count: int) -> None:
    before = open_descriptors()
    with descriptors(count):
        disk.offer(queues=MAX_QUEUES)
        disk.become(State.CLOSING)
    assert open_descriptors() <= before
    assert disk.error == "-24 on the host: Too many open files"
    assert disk.domain.grants.pinned() == {}
    assert_serves(disk)


def test_descriptors_are_gone_while_it_is_served(disk: Disk) -> None:
    """Ending a device opens nothing."""
    disk.connect(queues=MAX_QUEUES)
    with descriptors(0):
        disk.figures()
        disk.close_frontend()
    assert_serves(disk)


@pytest.mark.parametrize("count", [0, 1, MAX_QUEUES - 1])
def test_out_of_threads(disk: Disk, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    start = threading.Thread.start
    left = iter(range(count))

    def scarce(thread: threading.Thread) -> None:
        if thread.name == "block" and next(left, None) is None:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", scarce)
    disk.offer(queues=MAX_QUEUES)
    disk.become(State.CLOSING)
    assert disk.error == "-11 can't start new thread"
    assert disk.domain.grants.pinned() == {}
    monkeypatch.undo()
    assert_serves(disk)
