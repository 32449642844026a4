"""Frontends that break the rules: each gets an error, and nothing else happens.

After each, the same disk or another serves an honest request, nothing is left mapped, nothing
outside the granted pages is written, and no error is ours.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmxen.kvm.layout import PAGE_SIZE
from kvmxen.xen.abi.blkif import BlkifOp, BlkifStatus
from kvmxen.xen.abi.grant_table import PERMIT_ACCESS
from kvmxen.xen.abi.ring import REQ_PROD
from kvmxen.xen.abi.xenbus import XenbusState as State
from tests.unit.backends.block.frontend import Disk, Queue, Seg

SIZE = 4 << 20
SECTORS = SIZE // 512
OKAY, ERROR, UNSUPPORTED = BlkifStatus.OKAY, BlkifStatus.ERROR, BlkifStatus.EOPNOTSUPP
CANARY = b"untouched " * 409 + b"canary"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.write_bytes(b"\xaa" * SIZE)
    disk = Disk(path)
    yield disk
    disk.end()
    assert path.stat().st_size == SIZE


def assert_serves(disk: Disk, ring: Queue) -> None:
    """Check that an honest request is served."""
    gpa, ref = disk.page()
    assert ring.do(BlkifOp.READ, SECTORS - 8, Seg(ref)) is OKAY
    assert disk.domain.memory.read(gpa, PAGE_SIZE) == b"\xaa" * PAGE_SIZE


def assert_refused(disk: Disk, complaint: str) -> None:
    """Check that the frontend was told, is not served any more, and can start again."""
    disk.become(State.CLOSING)
    assert complaint in (disk.error or "")
    assert disk.domain.grants.pinned() == {}
    disk.domain.set(f"{disk.front}/state", int(State.CLOSED))
    disk.become(State.CLOSED)
    disk.domain.set(f"{disk.front}/state", int(State.INITIALISING))
    disk.become(State.INIT_WAIT)


# Requests.


@pytest.mark.parametrize("operation", [BlkifOp.READ, BlkifOp.WRITE, BlkifOp.WRITE_BARRIER])
@pytest.mark.parametrize(
    ("sector", "first", "last"),
    [
        (0, 5, 4),
        (0, 0, 8),
        (0, 255, 255),
        (0, 8, 8),
        (SECTORS, 0, 0),
        (SECTORS - 7, 0, 7),
        (1 << 55, 0, 7),
        ((1 << 64) - 1, 0, 0),
        ((1 << 64) - 4, 0, 7),
    ],
)
def test_sectors_out_of_range(
    disk: Disk, operation: int, sector: int, first: int, last: int
) -> None:
    ring = disk.connect()
    _, ref = disk.page(CANARY)
    assert ring.do(operation, sector, Seg(ref, first, last)) is ERROR
    assert_serves(disk, ring)
    assert disk.path.read_bytes() == b"\xaa" * SIZE


@pytest.mark.parametrize("operation", [BlkifOp.READ, BlkifOp.WRITE, BlkifOp.FLUSH_DISKCACHE])
@pytest.mark.parametrize("count", [0, 12, 255])
def test_counts_of_segments(disk: Disk, operation: int, count: int) -> None:
    ring = disk.connect()
    _, ref = disk.page()
    id_ = ring.rw(operation, 0, [Seg(ref)] * 11, nr_segments=count)
    ring.push()
    empty_flush = operation == BlkifOp.FLUSH_DISKCACHE and not count
    assert ring.wait() == {id_: OKAY if empty_flush else ERROR}
    assert_serves(disk, ring)


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("operation", [BlkifOp.READ, BlkifOp.WRITE])
@pytest.mark.parametrize("which", ["none", "far", "huge", "not dom0's", "no ram", "shared_info"])
def test_bad_grants(disk: Disk, operation: int, which: str, persistent: bool) -> None:
    ring = disk.connect(persistent=persistent)
    domain = disk.domain
    gpa, good = disk.page(CANARY)
    ref = {
        "none": 4000,
        "far": 40_000,
        "huge": (1 << 32) - 1,
        "not dom0's": domain.grant(gpa, flags=PERMIT_ACCESS | 7 << 16),
        "no ram": domain.grant(1 << 40),
        "shared_info": domain.grant(domain.shared_info),
    }[which]
    # The segments before the bad one are unmapped again.
    assert ring.do(operation, 0, Seg(good), Seg(good), Seg(ref)) is ERROR
    pinned = set(domain.grants.pinned()) - set(ring.refs)
    assert pinned == ({good} if persistent else set())
    assert domain.memory.read(gpa, len(CANARY)) == CANARY
    assert_serves(disk, ring)
    assert disk.path.read_bytes() == b"\xaa" * SIZE


@pytest.mark.parametrize("persistent", [False, True])
def test_a_readonly_grant_is_not_written(disk: Disk, persistent: bool) -> None:
    ring = disk.connect(persistent=persistent)
    gpa = disk.domain.page()
    disk.domain.memory.write(gpa, CANARY)
    ref = disk.domain.grant_readonly(gpa)
    assert ring.do(BlkifOp.READ, 0, Seg(ref)) is ERROR
    assert disk.domain.memory.read(gpa, len(CANARY)) == CANARY
    # Read access is enough, unless the grant stays mapped.
    assert ring.do(BlkifOp.WRITE, 0, Seg(ref)) is (ERROR if persistent else OKAY)
    assert_serves(disk, ring)


def test_a_grant_that_is_revoked(disk: Disk) -> None:
    """A persistently mapped grant still means its frame; otherwise the next use is refused."""
    ring = disk.connect(persistent=True)
    gpa, ref = disk.page()
    assert ring.do(BlkifOp.READ, 0, Seg(ref)) is OKAY
    disk.domain.grant(gpa, flags=0, ref=ref)
    assert ring.do(BlkifOp.READ, 0, Seg(ref)) is OKAY
    disk.close_frontend()
    disk.domain.set(f"{disk.front}/state", int(State.INITIALISING))
    disk.become(State.INIT_WAIT)
    ring = disk.connect()
    assert ring.do(BlkifOp.READ, 0, Seg(ref)) is ERROR
    assert_serves(disk, ring)


def test_a_grant_that_is_used_many_times(disk: Disk) -> None:
    ring = disk.connect()
    _, ref = disk.page()
    ids = [ring.rw(BlkifOp.READ, 0, [Seg(ref)] * 11) for _ in range(ring.size)]
    ring.push()
    # Xen counts to 255: some may be refused, none is half done.
    assert set(ring.wait(len(ids)).values()) <= {OKAY, ERROR}
    assert_serves(disk, ring)


def test_the_ring_itself_as_a_segment(disk: Disk) -> None:
    ring = disk.connect()
    for _ in range(3):
        ring.rw(BlkifOp.WRITE, 0, [Seg(ring.refs[0])] * 3)
    ring.push()
    assert set(ring.wait(3).values()) <= {OKAY, ERROR}
    assert_serves(disk, ring)


@pytest.mark.parametrize(
    ("operation", "count"),
    [
        (BlkifOp.READ, 0),
        (BlkifOp.READ, 257),
        (BlkifOp.WRITE, 65535),
        (BlkifOp.WRITE_BARRIER, 1),
        (BlkifOp.FLUSH_DISKCACHE, 1),
        (BlkifOp.DISCARD, 1),
        (BlkifOp.INDIRECT, 1),
        (255, 1),
    ],
)
def test_indirect_requests_that_lie(disk: Disk, operation: int, count: int) -> None:
    ring = disk.connect()
    _, ref = disk.page()
    id_ = ring.indirect(operation, 0, [Seg(ref)], nr_segments=count)
    ring.push()
    assert ring.wait()[id_] is ERROR
    assert_serves(disk, ring)
    assert disk.path.read_bytes() == b"\xaa" * SIZE


@pytest.mark.parametrize("fill", [b"\xff", b"\x00", b"\x80", b"\x01"])
def test_indirect_pages_of_garbage(disk: Disk, fill: bytes) -> None:
    ring = disk.connect()
    page = disk.domain.page()
    disk.domain.memory.write(page, fill * PAGE_SIZE)
    id_ = ring.indirect(BlkifOp.READ, 0, [], page=page, nr_segments=256)
    bad = ring.indirect(BlkifOp.READ, 0, [], page=page, nr_segments=1, ref=30_000)
    ring.push()
    assert ring.wait(2) == {id_: ERROR, bad: ERROR}
    assert_serves(disk, ring)


@settings(max_examples=60)
@given(st.lists(st.binary(min_size=112, max_size=112), min_size=1, max_size=32), st.booleans())
def test_any_requests(tmp_path_factory: pytest.TempPathFactory, raw: list[bytes], p: bool) -> None:
    path = tmp_path_factory.mktemp("any") / "disk"
    path.write_bytes(b"\xaa" * SIZE)
    disk = Disk(path, "no-discard")
    ring = disk.connect(persistent=p)
    for request in raw:
        # Valid operations come more often than at random.
        ring.put(bytes([request[0] % 8]) + request[1:])
    ring.push()
    before = ring.rsp_cons
    while ring.rsp_cons - before < len(raw):
        for _, _, status in ring.responses():
            assert status in (OKAY, ERROR, UNSUPPORTED)
    assert_serves(disk, ring)
    disk.end()
    assert path.stat().st_size == SIZE


# The ring.


@pytest.mark.parametrize("start", [0, (1 << 32) - 5])
@pytest.mark.parametrize("surplus", [33, 1000, 1 << 31, -1])
def test_an_index_that_cannot_be(disk: Disk, start: int, surplus: int) -> None:
    ring = disk.connect(start=start)
    ring.words[REQ_PROD // 4] = (start + surplus) % (1 << 32)
    disk.domain.events.send(ring.port)
    assert_refused(disk, "more requests than it has room")
    assert_serves(disk, disk.connect())


def test_one_broken_ring_of_four(disk: Disk) -> None:
    disk.connect(queues=4)
    assert_serves(disk, disk.queues[3])
    disk.queues[2].words[REQ_PROD // 4] = 77
    disk.domain.events.send(disk.queues[2].port)
    assert_refused(disk, "more requests")


def test_another_disk_goes_on(disk: Disk, tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(b"\xaa" * SIZE)
    other = Disk(path, "target=xvdb", disk)
    served = other.connect()
    ring = disk.connect()
    ring.words[REQ_PROD // 4] = 1 << 30
    disk.domain.events.send(ring.port)
    disk.become(State.CLOSING)
    assert other.error is None
    assert_serves(other, served)


def test_a_storm_of_events(disk: Disk) -> None:
    ring = disk.connect()
    for _ in range(20_000):
        disk.domain.events.send(ring.port)
    assert_serves(disk, ring)


def test_a_port_that_is_closed_and_a_ring_that_is_reused(disk: Disk) -> None:
    ring = disk.connect()
    assert_serves(disk, ring)
    disk.domain.events.close(ring.port)
    # The backend gets no more events; it must still end.
    disk.close_frontend()
    assert disk.domain.grants.pinned() == {}


def flip(view: memoryview, stop: threading.Event, seed: int) -> None:
    """Keep changing bytes of `view`."""
    chance = random.Random(seed)
    while not stop.is_set():
        for _ in range(64):
            view[chance.randrange(len(view))] = chance.randrange(256)


@pytest.mark.parametrize("indirect", [False, True])
def test_fields_that_change_while_they_are_read(disk: Disk, indirect: bool) -> None:
    """A mutator keeps changing the requests, or their page of segments."""
    ring = disk.connect()
    memory = disk.domain.memory
    canary = disk.domain.page()
    memory.write(canary, CANARY)
    _, ref = disk.page()
    page = disk.domain.page()
    page_ref = disk.domain.grant(page)
    where = ring.entry(0)
    target = memory.view(page, 2048) if indirect else ring.view[where + 1 : where + 112]
    stop = threading.Event()
    mutator = threading.Thread(target=flip, args=(target, stop, 1))
    mutator.start()
    try:
        for _ in range(40):
            before = ring.rsp_cons
            while (ring.req_prod - before) % (1 << 32) < ring.size:
                if indirect:
                    ring.indirect(
                        BlkifOp.READ, 0, [Seg(ref)] * 16, page=page, nr_segments=16, ref=page_ref
                    )
                else:
                    ring.rw(BlkifOp.READ, 0, [Seg(ref)])
            ring.push()
            ring.drain()
    finally:
        stop.set()
        mutator.join()
    assert memory.read(canary, len(CANARY)) == CANARY
    assert_serves(disk, ring)


# The frontend's nodes.


@pytest.mark.parametrize(
    ("nodes", "complaint"),
    [
        ({"protocol": "sparc"}, "no protocol"),
        ({"protocol": "x" * 200}, "no protocol"),
        ({"ring_page_order": 5}, "ring-page-order"),
        ({"ring_page_order": "1"}, "ring-ref0 is missing"),
        ({"num_ring_pages": 3}, "no power of two"),
        ({"num_ring_pages": 0}, "no power of two"),
        ({"num_ring_pages": 1 << 40}, "num-ring-pages"),
        ({"multi_queue_num_queues": 0}, "multi-queue-num-queues"),
        ({"multi_queue_num_queues": 9}, "multi-queue-num-queues"),
        ({"multi_queue_num_queues": -1}, "multi-queue-num-queues"),
        ({"multi_queue_num_queues": 2}, "queue-0/ring-ref is missing"),
        ({"ring_ref": None}, "ring-ref is missing"),
        ({"ring_ref": "9" * 20}, "ring-ref"),
        ({"ring_ref": 31_999}, "mapping the ring"),
        ({"event_channel": None}, "event-channel is missing"),
        ({"event_channel": 3000}, "not waiting"),
        ({"event_channel": 0}, "not waiting"),
        ({"feature_persistent": "yes"}, "feature-persistent"),
    ],
)
def test_nodes_that_lie(disk: Disk, nodes: dict[str, object], complaint: str) -> None:
    disk.offer(**nodes)  # type: ignore[arg-type]
    assert_refused(disk, complaint)
    for key in nodes:
        if disk.domain.read(f"{disk.front}/{key.replace('_', '-')}") is not None:
            disk.domain.store.rm(f"{disk.front}/{key.replace('_', '-')}")
    assert_serves(disk, disk.connect())


def test_two_queues_of_one_ring(disk: Disk) -> None:
    """Each has its own indices; the damage to each other's entries is the frontend's problem."""
    disk.offer(queues=2)
    disk.become(State.CONNECTED)
    first = disk.queues[0]
    disk.close_frontend()
    disk.domain.set(f"{disk.front}/state", int(State.INITIALISING))
    disk.become(State.INIT_WAIT)
    same = {"queue-1/ring-ref": first.refs[0], "queue-0/ring-ref": first.refs[0]}
    disk.offer(queues=2, **same)  # type: ignore[arg-type]
    disk.become(State.CONNECTED)
    for n in range(2):
        first.rw(BlkifOp.READ, 8 * n, [Seg(disk.page()[1])])
    first.words[REQ_PROD // 4] = 2
    for queue in disk.queues:
        disk.domain.events.send(queue.port)
    disk.close_frontend()


def test_the_order_changes_while_connected(disk: Disk) -> None:
    ring = disk.connect()
    for key, value in (("ring-page-order", 4), ("ring-ref", 9), ("event-channel", 1)):
        disk.domain.set(f"{disk.front}/{key}", value)
    disk.domain.set(f"{disk.front}/state", int(State.CONNECTED))
    assert_serves(disk, ring)
    assert disk.domain.state(disk.back) is State.CONNECTED


Change = Callable[[Disk], None]


@pytest.mark.parametrize(
    "change",
    [
        lambda disk: disk.domain.set(f"{disk.front}/state", int(State.CLOSED)),
        lambda disk: disk.domain.set(f"{disk.front}/state", int(State.INITIALISING)),
        lambda disk: disk.domain.store.rm(disk.front),
        lambda disk: disk.bus.remove("vbd", disk.spec.number),
    ],
)
def test_an_end_amid_requests(disk: Disk, change: Change) -> None:
    """The backend finishes operations in flight before it returns anything."""
    ring = disk.connect(queues=1, pages=4)
    pages = [disk.page(os.urandom(PAGE_SIZE)) for _ in range(100)]
    for n, (_, ref) in enumerate(pages):
        ring.rw(BlkifOp.WRITE, n * 8, [Seg(ref)])
    ring.push()
    change(disk)
    disk.bus.close()
    assert disk.domain.grants.pinned() == {}
