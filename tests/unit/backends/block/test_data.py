"""Data between an in-process frontend and a file, in every way, with each byte compared."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvmxen.backends.block import image
from kvmxen.backends.block.pool import PoolEngine
from kvmxen.backends.block.uring import UringEngine
from kvmxen.kvm.layout import PAGE_SIZE
from kvmxen.xen.abi.blkif import PROTOCOLS, BlkifOp, BlkifStatus
from kvmxen.xen.abi.ring import RSP_PROD
from kvmxen.xen.abi.xenbus import XenbusState
from tests.unit.backends.block.frontend import Disk, Seg
from tests.unit.backends.fake_domain import wait_until

SIZE = 4 << 20
# A file of which Linux returns at most a page per preadv(2).
IN_PIECES = Path("/sys/kernel/btf/vmlinux")
F_SEAL_FUTURE_WRITE = 0x10  # linux/fcntl.h
OKAY, ERROR, UNSUPPORTED = BlkifStatus.OKAY, BlkifStatus.ERROR, BlkifStatus.EOPNOTSUPP
PATTERN = bytes(range(256)) * 16

MakeDisk = Callable[..., Disk]


def have_uring(tmp_path: Path) -> bool:
    with (tmp_path / "probe").open("wb") as file:
        try:
            UringEngine(file.fileno(), file.fileno(), 1)
        except OSError:
            return False
    return True


@pytest.fixture(params=["io_uring", "threads"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Every test that uses it runs on each engine."""
    kind = str(request.param)
    if kind == "io_uring" and not have_uring(tmp_path):
        pytest.skip("needs io_uring, which this host has not or does not allow")
    if kind == "threads":

        def none(*_: object) -> None:
            raise OSError

        monkeypatch.setattr(image, "UringEngine", none)
        monkeypatch.setattr(image, "PoolEngine", lambda fd, bell, _: PoolEngine(fd, bell, 3))
    return kind


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeDisk]:
    disks: list[Disk] = []

    def disk(options: str = "", size: int = SIZE) -> Disk:
        path = tmp_path / f"disk{len(disks)}"
        path.touch()
        os.truncate(path, size)
        disks.append(Disk(path, options))
        return disks[-1]

    yield disk
    for one in disks:
        one.end()


@pytest.mark.parametrize("offered", [False, True])
def test_persistent_grants_are_used_where_they_are_offered(make: MakeDisk, offered: bool) -> None:
    disk = make(f"persistent={int(offered)}")
    assert disk.node("feature-persistent") == str(int(offered))
    ring = disk.connect(persistent=True)
    _, ref = disk.page(PATTERN)
    assert ring.do(BlkifOp.WRITE, 8, Seg(ref)) is OKAY
    assert set(disk.domain.grants.pinned()) - set(ring.refs) == ({ref} if offered else set())


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("pages", [1, 4])
def test_there_and_back(make: MakeDisk, protocol: str, persistent: bool, pages: int) -> None:
    disk = make()
    ring = disk.connect(protocol=protocol, persistent=persistent, pages=pages)
    _, written = disk.page(PATTERN)
    gpa, read = disk.page()
    assert ring.do(BlkifOp.WRITE, 8, Seg(written), Seg(written, 1, 3)) is OKAY
    assert ring.flush() is OKAY
    assert ring.do(BlkifOp.READ, 8, Seg(read)) is OKAY
    assert disk.domain.memory.read(gpa, PAGE_SIZE) == PATTERN
    content = disk.path.read_bytes()
    assert content[4096:8192] == PATTERN
    assert content[8192 : 8192 + 1536] == PATTERN[512:2048]
    assert not any(content[:4096] + content[9728:])
    pinned = set(disk.domain.grants.pinned()) - set(ring.refs)
    assert pinned == ({written, read} if persistent else set())
    assert disk.figures() | {"syscalls": 0, "kicks": 0, "notifications": 0} == {
        "reads": 1,
        "writes": 1,
        "flushes": 1,
        "discards": 0,
        "bytes_read": 4096,
        "bytes_written": 5632,
        "bytes_discarded": 0,
        "bytes_copied": 0,
        "merges": 0,
        "errors": 0,
        "syscalls": 0,
        "kicks": 0,
        "notifications": 0,
    }


@pytest.mark.usefixtures("engine")
def test_many_at_once_across_the_wrap(make: MakeDisk) -> None:
    disk = make()
    ring = disk.connect(start=(1 << 32) - 20)
    pages = [disk.page(bytes([n]) * PAGE_SIZE) for n in range(ring.size)]
    for _ in range(3):
        ids = [ring.rw(BlkifOp.WRITE, n * 8, [Seg(ref)]) for n, (_, ref) in enumerate(pages)]
        ring.push()
        assert ring.wait(len(ids)) == dict.fromkeys(ids, OKAY)
    content = disk.path.read_bytes()
    for n in range(ring.size):
        assert content[n * PAGE_SIZE : (n + 1) * PAGE_SIZE] == bytes([n]) * PAGE_SIZE


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_indirect(make: MakeDisk, protocol: str) -> None:
    disk = make()
    ring = disk.connect(protocol=protocol)
    pages = [disk.page(bytes([n]) * PAGE_SIZE) for n in range(256)]
    write = ring.indirect(BlkifOp.WRITE, 0, [Seg(ref) for _, ref in pages])
    ring.push()
    wait_until(lambda: ring.words[RSP_PROD // 4] == 1)
    # The response names the inner operation, not the indirect one: Linux insists.
    assert list(ring.responses()) == [(write, BlkifOp.WRITE, OKAY)]
    assert disk.path.read_bytes()[: 1 << 20] == b"".join(bytes([n]) * 4096 for n in range(256))
    for gpa, _ in pages:
        disk.domain.memory.zero(gpa, PAGE_SIZE)
    read = ring.indirect(BlkifOp.READ, 0, [Seg(ref) for _, ref in reversed(pages)])
    ring.push()
    assert ring.wait() == {read: OKAY}
    for n, (gpa, _) in enumerate(reversed(pages)):
        assert disk.domain.memory.read(gpa, PAGE_SIZE) == bytes([n]) * PAGE_SIZE
    # Adjacent pages are one part of a read.
    assert disk.figures()["merges"] == 255


@pytest.mark.usefixtures("engine")
def test_queues(make: MakeDisk) -> None:
    disk = make()
    disk.connect(queues=4, pages=2)
    for n, ring in enumerate(disk.queues):
        _, ref = disk.page(bytes([n + 1]) * PAGE_SIZE)
        assert ring.do(BlkifOp.WRITE, n * 8, Seg(ref)) is OKAY
    assert disk.path.read_bytes()[: 4 * PAGE_SIZE : PAGE_SIZE] == b"\1\2\3\4"


@pytest.mark.usefixtures("engine")
def test_barriers_and_flushes_with_data(make: MakeDisk) -> None:
    disk = make()
    ring = disk.connect()
    pages = [disk.page(bytes([n]) * PAGE_SIZE) for n in range(24)]
    ids = []
    for n, (_, ref) in enumerate(pages):
        # All write to one place: the last of each ordering kind must win over those before it.
        operation = BlkifOp.WRITE_BARRIER if n % 4 == 3 else BlkifOp.WRITE
        ids.append(ring.rw(operation, 8 * (n % 4 == 3), [Seg(ref)]))
    ids.append(ring.rw(BlkifOp.WRITE_BARRIER, 0, []))
    ids.append(ring.rw(BlkifOp.FLUSH_DISKCACHE, 16, [Seg(pages[5][1])]))
    ring.push()
    assert ring.wait(len(ids)) == dict.fromkeys(ids, OKAY)
    content = disk.path.read_bytes()
    assert content[4096] == 23
    assert content[8192] == 5
    # Everything before a barrier is done before it.
    assert content[0] in (20, 21, 22)


@pytest.mark.usefixtures("engine")
def test_discard(make: MakeDisk) -> None:
    disk = make()
    ring = disk.connect()
    with disk.path.open("r+b") as file:
        file.write(b"\xff" * SIZE)
        os.fsync(file.fileno())
    before = disk.path.stat().st_blocks
    id_ = ring.discard(8, SIZE // 512 - 16)
    ring.push()
    assert ring.wait() == {id_: OKAY}
    content = disk.path.read_bytes()
    assert content == b"\xff" * 4096 + bytes(SIZE - 8192) + b"\xff" * 4096
    assert disk.path.stat().st_blocks < before
    assert disk.figures()["bytes_discarded"] == SIZE - 8192


@pytest.mark.parametrize(
    ("options", "sector", "count", "flag", "status"),
    [
        ("", 0, 8, 1, UNSUPPORTED),
        ("no-discard", 0, 8, 0, UNSUPPORTED),
        ("ro", 0, 8, 0, UNSUPPORTED),
        ("", 0, 0, 0, ERROR),
        ("", SIZE // 512 - 1, 2, 0, ERROR),
        ("", 1 << 63, 1, 0, ERROR),
        ("", 1, 1 << 64 - 1, 0, ERROR),
        ("sector-size=4096", 1, 8, 0, ERROR),
        ("sector-size=4096", 8, 4, 0, ERROR),
    ],
)
def test_discards_that_are_refused(
    make: MakeDisk, options: str, sector: int, count: int, flag: int, status: BlkifStatus
) -> None:
    disk = make(options)
    ring = disk.connect()
    id_ = ring.discard(sector, count, flag)
    ring.push()
    assert ring.wait() == {id_: status}


def test_readonly(make: MakeDisk) -> None:
    disk = make("ro")
    assert (disk.node("mode"), disk.node("info"), disk.node("feature-discard")) == ("r", "4", "0")
    ring = disk.connect()
    _, ref = disk.page(PATTERN)
    for operation in (BlkifOp.WRITE, BlkifOp.WRITE_BARRIER, BlkifOp.FLUSH_DISKCACHE):
        assert ring.do(operation, 0, Seg(ref)) is ERROR
    assert ring.do(BlkifOp.READ, 0, Seg(ref)) is OKAY
    assert ring.flush() is OKAY
    assert not any(disk.path.read_bytes())


@pytest.mark.parametrize("cache", ["writeback", "writethrough", "none", "directsync", "unsafe"])
@pytest.mark.usefixtures("engine")
def test_caches(make: MakeDisk, cache: str, tmp_path: Path) -> None:
    if cache in ("none", "directsync"):
        try:
            os.close(os.open(tmp_path / "d", os.O_RDWR | os.O_CREAT | os.O_DIRECT))
        except OSError:
            pytest.skip("needs a file system with direct access")
    disk = make(f"cache={cache}")
    ring = disk.connect()
    _, ref = disk.page(PATTERN)
    assert ring.do(BlkifOp.WRITE, 1, Seg(ref, 0, 6)) is OKAY
    assert ring.flush() is OKAY
    assert disk.path.read_bytes()[512:4096] == PATTERN[:3584]


def test_sectors_of_4096(make: MakeDisk) -> None:
    disk = make("sector-size=4096", size=SIZE + 512)
    assert (disk.node("sector-size"), disk.node("sectors")) == ("4096", str(SIZE // 512))
    ring = disk.connect()
    _, ref = disk.page(PATTERN)
    assert ring.do(BlkifOp.WRITE, 8, Seg(ref)) is OKAY
    assert ring.do(BlkifOp.WRITE, 1, Seg(ref)) is ERROR
    assert ring.do(BlkifOp.WRITE, 8, Seg(ref, 0, 3)) is ERROR
    assert ring.do(BlkifOp.WRITE, 8, Seg(ref, 4, 7)) is ERROR


def test_a_cdrom(make: MakeDisk) -> None:
    disk = make("devtype=cdrom")
    assert (disk.node("device-type"), disk.node("mode"), disk.node("info")) == ("cdrom", "r", "5")
    assert disk.domain.read(f"{disk.front}/device-type") == "cdrom"


@pytest.mark.usefixtures("engine")
def test_an_image_that_shrank(make: MakeDisk) -> None:
    disk = make()
    ring = disk.connect()
    os.truncate(disk.path, 4096)
    _, ref = disk.page()
    assert ring.do(BlkifOp.READ, 64, Seg(ref)) is ERROR
    assert ring.do(BlkifOp.READ, 0, Seg(ref)) is OKAY
    # It ends within a part, and between two.
    os.truncate(disk.path, 6144)
    assert ring.do(BlkifOp.READ, 8, Seg(ref)) is ERROR
    assert ring.do(BlkifOp.READ, 0, Seg(ref), Seg(ref)) is ERROR
    assert ring.do(BlkifOp.READ, 4, Seg(ref), Seg(ref)) is ERROR
    assert ring.do(BlkifOp.READ, 4, Seg(ref)) is OKAY


@pytest.mark.usefixtures("engine")
@pytest.mark.skipif(not IN_PIECES.exists(), reason=f"needs {IN_PIECES}")
def test_an_image_that_is_read_in_pieces() -> None:
    """With one part and with many, in order and not."""
    disk = Disk(IN_PIECES, "ro")
    ring = disk.connect()
    content = IN_PIECES.read_bytes()
    pages = [disk.page() for _ in range(6)]
    for order in (pages, pages[::-1], [*pages[3:], *pages[:3]]):
        for gpa, _ in pages:
            disk.domain.memory.zero(gpa, PAGE_SIZE)
        assert ring.do(BlkifOp.READ, 3, *(Seg(ref) for _, ref in order)) is OKAY
        found = b"".join(disk.domain.memory.read(gpa, PAGE_SIZE) for gpa, _ in order)
        assert found == content[1536 : 1536 + len(found)]
    disk.end()


@pytest.mark.usefixtures("engine")
def test_an_image_that_takes_no_writes() -> None:
    """The guest gets the host's error, and the disk goes on."""
    fd = os.memfd_create("image", os.MFD_ALLOW_SEALING)
    os.truncate(fd, SIZE)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, F_SEAL_FUTURE_WRITE)
    disk = Disk(Path(f"/proc/self/fd/{fd}"))
    ring = disk.connect()
    _, ref = disk.page(PATTERN)
    assert ring.do(BlkifOp.WRITE, 0, Seg(ref)) is ERROR
    assert ring.do(BlkifOp.READ, 0, Seg(ref)) is OKAY
    assert ring.flush() is OKAY
    assert disk.figures()["errors"] == 1
    disk.end()
    os.close(fd)


def test_responses_have_no_leftovers(make: MakeDisk) -> None:
    disk = make()
    ring = disk.connect()
    _, ref = disk.page()
    ring.do(BlkifOp.READ, 0, Seg(ref))
    ring.do(99, 0, Seg(ref))
    for raw in ring.garbage:
        assert raw[9:10] == bytes(1)
        assert raw[12:] == bytes(4)


def test_an_unknown_operation(make: MakeDisk) -> None:
    disk = make()
    ring = disk.connect()
    for operation in (4, 7, 255):
        assert ring.do(operation, 0) is UNSUPPORTED


def test_a_module_that_is_loaded_again(make: MakeDisk) -> None:
    disk = make()
    for n in range(3):
        ring = disk.connect(persistent=bool(n & 1))
        _, ref = disk.page(bytes([n + 1]) * PAGE_SIZE)
        assert ring.do(BlkifOp.WRITE, 8 * n, Seg(ref)) is OKAY
        disk.close_frontend()
        assert disk.domain.grants.pinned() == {}
        disk.domain.set(f"{disk.front}/state", 1)
        disk.become(XenbusState.INIT_WAIT)
    assert disk.path.read_bytes()[: 3 * PAGE_SIZE : PAGE_SIZE] == b"\1\2\3"
    assert disk.figures()["writes"] == 3


@pytest.mark.usefixtures("engine")
def test_requests_while_others_end(make: MakeDisk) -> None:
    """The doorbell rings while completions arrive: neither is lost, however they meet."""
    disk = make()
    ring = disk.connect(persistent=True)
    _, ref = disk.page(PATTERN)
    waiting: set[int] = set()
    for n in range(3000):
        waiting -= {id_ for id_, _, status in ring.responses() if status is OKAY}
        if len(waiting) == ring.size:
            wait_until(lambda: ring.words[RSP_PROD // 4] != ring.rsp_cons)
            continue
        waiting.add(ring.rw(BlkifOp.READ if n & 1 else BlkifOp.WRITE, n % 1000, [Seg(ref)]))
        ring.push()
        # Whether the backend wants it or not.
        disk.domain.events.send(ring.port)
    assert ring.wait(len(waiting)) == dict.fromkeys(waiting, OKAY)
