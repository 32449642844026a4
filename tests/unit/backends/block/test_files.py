"""Which files can be disks and which cannot, whatever waits behind a path."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kvmxen.backends.block.files import MAX_KEY, open_disk, read_key, size_of
from kvmxen.backends.block.image import RawImage
from kvmxen.config import DiskSpec
from kvmxen.errors import KvmxenError
from tests.e2e.disks import tool
from tests.unit.backends.block.scarcity import descriptors


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a"
    path.write_bytes(bytes(4096))
    return path


@pytest.mark.parametrize("readonly", [True, False])
@pytest.mark.parametrize("kind", ["fifo", "socket", "folder", "/dev/null", "/dev/zero"])
def test_what_is_no_disk(tmp_path: Path, kind: str, readonly: bool) -> None:
    """Nobody is at the other end of the FIFO, so opening it waits forever."""
    path = tmp_path / kind if "/" not in kind else Path(kind)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with closing(socket.socket(socket.AF_UNIX)) as listener:
            listener.bind(str(path))
    with pytest.raises(KvmxenError, match=f"the disk {path} is neither a file nor a block device"):
        open_disk(path, readonly=readonly)
    with pytest.raises(KvmxenError, match=f"the key {path} is not a file"):
        read_key(path)


def test_nothing_is_opened_by_looking_at_it(tmp_path: Path) -> None:
    """A FIFO's reader would notice that a writer came and left."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    poll = select.poll()
    poll.register(reader, select.POLLHUP)
    with pytest.raises(KvmxenError, match="neither a file nor"):
        open_disk(path, readonly=False)
    assert poll.poll(0) == []
    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    assert poll.poll(0) == [(reader, select.POLLHUP)]
    os.close(reader)


@pytest.mark.parametrize("path", ["/proc/self/mem", "/proc/self/maps", "/proc/version"])
@pytest.mark.parametrize("readonly", [",ro", ""])
def test_files_of_the_kernels(path: str, readonly: str) -> None:
    with pytest.raises(KvmxenError, match=f"the disk {path} (has no s|cannot be opened)"):
        RawImage(DiskSpec.parse(f"{path}{readonly}"))


def test_locks(file: Path) -> None:
    first = open_disk(file, readonly=True)
    second = open_disk(file, readonly=True)
    with pytest.raises(
        KvmxenError, match="in use by another process: stop it, or give ,ro to both"
    ):
        open_disk(file, readonly=False)
    for fd in (first, second):
        os.close(fd)
    third = open_disk(file, readonly=False)
    with pytest.raises(KvmxenError, match="in use"):
        open_disk(file, readonly=True)
    assert fcntl.fcntl(third, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
    assert size_of(third, file) == 4096
    os.close(third)


@pytest.mark.parametrize("count", [0, 1])
def test_out_of_descriptors(file: Path, count: int) -> None:
    """One descriptor is enough to examine the path, not to open it."""
    with (
        descriptors(count),
        pytest.raises(KvmxenError, match=r"a cannot be opened: .*allow more open files"),
    ):
        open_disk(file, readonly=False)
    with descriptors(2):
        os.close(open_disk(file, readonly=False))


@pytest.fixture
def loop_device(file: Path) -> Iterator[Path]:
    """A loop device with a file behind it; skips if there are none."""
    losetup = tool("losetup")
    os.truncate(file, 8 << 20)
    made = subprocess.run(
        [losetup, "--find", "--show", file], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"needs loop devices: {made.stderr.strip()}")
    path = Path(made.stdout.strip())
    yield path
    subprocess.run([losetup, "--detach", path], check=True)


def test_a_block_device_that_the_host_uses(loop_device: Path) -> None:
    """A mount claims a device as O_EXCL does; reading it remains possible."""
    claimed = os.open(loop_device, os.O_RDONLY | os.O_EXCL)
    with pytest.raises(KvmxenError, match=r"busy; the host has mounted it.*or give ,ro"):
        open_disk(loop_device, readonly=False)
    os.close(open_disk(loop_device, readonly=True))
    os.close(claimed)
    ours = open_disk(loop_device, readonly=False)
    with pytest.raises(OSError, match=os.strerror(errno.EBUSY)):
        os.open(loop_device, os.O_RDONLY | os.O_EXCL)
    os.close(ours)


def test_keys(tmp_path: Path) -> None:
    path = tmp_path / "key"
    for data in (b"", bytes(MAX_KEY + 1)):
        path.write_bytes(data)
        with pytest.raises(KvmxenError, match=f"the key {path} must have 1 to 4096 bytes"):
            read_key(path)
    path.write_bytes(b"secret\n")
    assert read_key(path) == b"secret\n"
    with pytest.raises(KvmxenError, match=r"the key .* cannot be opened: No such file"):
        read_key(tmp_path / "none")
