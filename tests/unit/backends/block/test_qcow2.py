"""qcow2 images by qemu-nbd: data, backing files, discard, and a server that dies."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmxen.backends.block import qemu, vbd
from kvmxen.backends.block.qemu import QemuImage
from kvmxen.config import DiskSpec
from kvmxen.errors import KvmxenError
from kvmxen.kvm.layout import PAGE_SIZE
from kvmxen.xen.abi.blkif import BlkifOp, BlkifStatus
from kvmxen.xen.abi.xenbus import XenbusState
from tests.e2e.disks import run, tool
from tests.unit.backends.block.frontend import Disk, Seg

OKAY, ERROR = BlkifStatus.OKAY, BlkifStatus.ERROR
PATTERN = bytes(range(256)) * 16
SIZE = 16 << 20


@pytest.fixture(autouse=True)
def _needs_qemu() -> None:
    tool("qemu-nbd")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, str(SIZE))
    return path


def contents(image: Path) -> bytes:
    """The data that a guest would read from the whole disk."""
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, image.with_suffix(".raw"))
    return image.with_suffix(".raw").read_bytes()


@pytest.fixture
def disk(image: Path) -> Iterator[Disk]:
    disk = Disk(image, "format=qcow2")
    yield disk
    disk.end()


def test_there_and_back(disk: Disk, image: Path) -> None:
    assert disk.node("sectors") == str(SIZE // 512)
    for n in range(2):
        disk.connect(queues=4, persistent=bool(n))
        for number, ring in enumerate(disk.queues):
            gpas = [disk.page(bytes([number + 1]) * PAGE_SIZE) for _ in range(8)]
            ids = [
                ring.rw(BlkifOp.WRITE, 64 * number + 8 * k, [Seg(ref)])
                for k, (_, ref) in enumerate(gpas)
            ]
            ring.push()
            assert ring.wait(8) == dict.fromkeys(ids, OKAY)
            assert ring.flush() is OKAY
            gpa, ref = disk.page()
            assert ring.do(BlkifOp.READ, 64 * number + 1, Seg(ref, 1, 7)) is OKAY
            assert disk.domain.memory.read(gpa + 512, 3584) == bytes([number + 1]) * 3584
        disk.close_frontend()
        disk.domain.set(f"{disk.front}/state", 1)
        disk.become(XenbusState.INIT_WAIT)
    disk.end()
    expected = b"".join(bytes([n + 1]) * 32768 for n in range(4))
    assert contents(image)[: len(expected)] == expected
    run("qemu-img", "check", "-q", image)


def test_large_requests(disk: Disk) -> None:
    ring = disk.connect(persistent=True)
    pages = [disk.page(bytes([n]) * PAGE_SIZE) for n in range(256)]
    ids = [ring.indirect(BlkifOp.WRITE, n * 2048, [Seg(ref) for _, ref in pages]) for n in range(8)]
    ring.push()
    assert ring.wait(8) == dict.fromkeys(ids, OKAY)
    for gpa, _ in pages:
        disk.domain.memory.zero(gpa, PAGE_SIZE)
    ids = [ring.indirect(BlkifOp.READ, n * 2048, [Seg(ref) for _, ref in pages]) for n in range(8)]
    ring.push()
    assert ring.wait(8) == dict.fromkeys(ids, OKAY)
    for n, (gpa, _) in enumerate(pages):
        assert disk.domain.memory.read(gpa, PAGE_SIZE) == bytes([n]) * PAGE_SIZE


def test_a_backing_file_is_only_read(image: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.write_bytes(PATTERN * (SIZE // len(PATTERN)))
    image.unlink()
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, image)
    disk = Disk(image, f"format=qcow2,backing={base}")
    ring = disk.connect()
    gpa, ref = disk.page()
    assert ring.do(BlkifOp.READ, 80, Seg(ref)) is OKAY
    assert disk.domain.memory.read(gpa, PAGE_SIZE) == PATTERN
    disk.domain.memory.zero(gpa, PAGE_SIZE)
    assert ring.do(BlkifOp.WRITE, 80, Seg(ref)) is OKAY
    disk.end()
    assert base.read_bytes() == PATTERN * (SIZE // len(PATTERN))
    assert contents(image)[80 * 512 : 80 * 512 + PAGE_SIZE] == bytes(PAGE_SIZE)


def test_discard_shrinks_the_image(disk: Disk, image: Path) -> None:
    ring = disk.connect(persistent=True)
    assert disk.node("feature-discard") == "1"
    _, ref = disk.page(PATTERN)
    ids = [ring.rw(BlkifOp.WRITE, n * 128, [Seg(ref)] * 11) for n in range(31)]
    ring.push()
    assert ring.wait(31) == dict.fromkeys(ids, OKAY)
    assert ring.flush() is OKAY
    before = image.stat().st_blocks
    id_ = ring.discard(0, SIZE // 512)
    ring.push()
    assert ring.wait() == {id_: OKAY}
    assert ring.flush() is OKAY
    assert image.stat().st_blocks < before - 2000


def test_a_server_that_dies(disk: Disk) -> None:
    """Every request then fails, also those in flight; the disk can still be removed."""
    ring = disk.connect()
    _, ref = disk.page(PATTERN)
    assert ring.do(BlkifOp.WRITE, 0, Seg(ref)) is OKAY
    disk.vbd._image._server.process.send_signal(signal.SIGKILL)  # type: ignore[attr-defined]
    disk.vbd._image._server.process.wait()  # type: ignore[attr-defined]
    ids = [ring.rw(BlkifOp.WRITE, 8 * n, [Seg(ref)]) for n in range(8)]
    ring.push()
    assert ring.wait(8) == dict.fromkeys(ids, ERROR)
    assert ring.flush() is ERROR
    disk.bus.remove("vbd", disk.spec.number)


def stop_server(disk: Disk) -> int:
    """Make the disk's server stop answering; return a descriptor that reports its end."""
    process = disk.vbd._image._server.process  # type: ignore[attr-defined]
    process.send_signal(signal.SIGSTOP)
    return os.pidfd_open(process.pid)


def assert_ended(server: int) -> None:
    assert select.select([server], [], [], 120)[0]
    os.close(server)


def test_a_server_that_hangs(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The disk can be removed although its server does not answer requests."""
    monkeypatch.setattr(vbd, "_FINISHING", 0.0)
    ring = disk.connect(queues=2)
    _, ref = disk.page(PATTERN)
    assert ring.do(BlkifOp.WRITE, 0, Seg(ref)) is OKAY
    server = stop_server(disk)
    ids = [ring.indirect(BlkifOp.WRITE, 0, [Seg(ref)] * 200)]
    ids.append(ring.rw(BlkifOp.READ, 0, [Seg(ref)]))
    ring.push()
    ring.wait_taken()
    disk.bus.remove("vbd", disk.spec.number)
    assert ring.wait(len(ids)) == dict.fromkeys(ids, ERROR)
    assert_ended(server)
    assert f"xvda ({disk.path}): killing qemu-nbd, which does not answer" in capfd.readouterr().err


def test_a_server_that_hangs_with_nothing_to_do(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(qemu, "_END_S", 0.0)
    disk.connect()
    server = stop_server(disk)
    disk.end()
    assert_ended(server)
    assert capfd.readouterr().err.count("killing qemu-nbd") == 1


def test_connections_of_a_server_that_died(disk: Disk) -> None:
    """A frontend may reconnect any number of times."""
    disk.vbd._image._server.process.kill()  # type: ignore[attr-defined]
    for _ in range(2 * vbd.MAX_QUEUES):
        ring = disk.connect()
        _, ref = disk.page()
        assert ring.do(BlkifOp.READ, 0, Seg(ref)) is ERROR
        disk.close_frontend()
        disk.domain.set(f"{disk.front}/state", 1)
        disk.become(XenbusState.INIT_WAIT)


def test_a_readonly_image(image: Path) -> None:
    image.chmod(0o444)
    disk = Disk(image, "format=qcow2,ro")
    ring = disk.connect()
    _, ref = disk.page()
    assert ring.do(BlkifOp.READ, 0, Seg(ref)) is OKAY
    assert ring.do(BlkifOp.WRITE, 0, Seg(ref)) is ERROR
    disk.end()


def test_qemus_own_complaint(image: Path) -> None:
    """Another qemu ignores our locks; its complaint is about the file that the person named."""
    other = QemuImage(DiskSpec.parse(f"{image},format=qcow2"), 1)
    fcntl.flock(other._chain.files[0].fd, fcntl.LOCK_UN)
    with pytest.raises(
        KvmxenError, match=rf"cannot be used: .*another process using the image \[{image}\]"
    ):
        Disk(image, "format=qcow2")
    other.close()


def test_two_domains(image: Path) -> None:
    disk = Disk(image, "format=qcow2")
    for options in ("format=qcow2", "format=raw", "format=qcow2,ro"):
        with pytest.raises(KvmxenError, match="is in use"):
            Disk(image, options)
    disk.end()


def test_no_qemu(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvmxen.backends.block.qemu.shutil.which", lambda _: None)
    with pytest.raises(KvmxenError, match="install Debian's package qemu-utils"):
        Disk(image, "format=qcow2")


def test_nothing_is_left_of_a_killed_process(image: Path, tmp_path: Path) -> None:
    """qemu-nbd ends with its last connection, however that ends."""
    program = (
        "import sys, time\n"
        "from kvmxen.backends.block.qemu import QemuImage\n"
        "from kvmxen.config import DiskSpec\n"
        "image = QemuImage(DiskSpec.parse(sys.argv[1] + ',format=qcow2'), 2)\n"
        "print(image._server.process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(image)],
        stdout=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert child.stdout
    server = os.pidfd_open(int(child.stdout.readline()))
    child.kill()
    child.wait()
    child.stdout.close()
    assert select.select([server], [], [], 120)[0]
    os.close(server)
    assert [path.name for path in tmp_path.iterdir()] == ["image.qcow2"]
