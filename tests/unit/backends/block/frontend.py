"""A block frontend in this process: a real ring, real grants and a real port, in plain memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from kvmxen.backends.block.vbd import Vbd
from kvmxen.backends.xenbus import Xenbus
from kvmxen.config.disk import DiskSpec, with_targets
from kvmxen.kvm.layout import PAGE_SIZE
from kvmxen.kvm.memory import Window
from kvmxen.xen.abi.blkif import NATIVE, PROTOCOLS, SEGMENT, BlkifOp, BlkifStatus
from kvmxen.xen.abi.ring import ENTRIES, REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD, ring_size
from kvmxen.xen.abi.xenbus import XenbusState as State
from tests.unit.backends.fake_domain import FakeDomain, wait_until

WRAP = 1 << 32
_BARRIER = Lock()


@dataclass
class Seg:
    """A part of a granted page, in sectors."""

    ref: int
    first: int = 0
    last: int = 7

    def fields(self) -> dict[str, int]:
        return {"gref": self.ref, "first_sect": self.first, "last_sect": self.last}


@dataclass
class Queue:
    """One ring of `pages`, as the guest's driver sees it."""

    domain: FakeDomain
    protocol: str
    pages: int = 1
    start: int = 0
    gpas: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.layouts = PROTOCOLS.get(self.protocol, PROTOCOLS[NATIVE])
        self.gpas = [self.domain.page() for _ in range(self.pages)]
        self.refs = [self.domain.grant_ring(gpa) for gpa in self.gpas]
        self.port = self.domain.events.alloc_unbound(0)
        window = Window(self.domain.memory, self.gpas)
        self.window = window
        self.view = window.view()
        self.words = window.view().cast("I")
        self.entry_size = self.layouts["request"].sizeof()
        self.size = ring_size(window.size, self.entry_size)
        self.req_prod = self.rsp_cons = self.start
        self.ids = 0
        self.garbage: list[bytes] = []
        for where, value in (
            (REQ_PROD, self.start),
            (RSP_PROD, self.start),
            (REQ_EVENT, self.start + 1),
            (RSP_EVENT, self.start + 1),
        ):
            self.words[where // 4] = value % WRAP

    def entry(self, index: int) -> int:
        return int(ENTRIES + index % self.size * self.entry_size)

    def put(self, request: bytes) -> None:
        """Put a request into the ring; the backend sees it after `push`."""
        where = self.entry(self.req_prod)
        self.view[where : where + self.entry_size] = request.ljust(self.entry_size, b"\xee")
        self.req_prod = (self.req_prod + 1) % WRAP

    def push(self) -> None:
        """Publish, and send an event if the backend wants one."""
        old = self.words[REQ_PROD // 4]
        self.words[REQ_PROD // 4] = self.req_prod
        # The index must be visible before the event's is read: a lock is a barrier.
        with _BARRIER:
            pass
        event = self.words[REQ_EVENT // 4]
        if (self.req_prod - event) % WRAP < (self.req_prod - old) % WRAP:
            self.domain.events.send(self.port)

    def responses(self) -> Iterator[tuple[int, int, BlkifStatus]]:
        """(id, operation, status) of the available responses."""
        layout = self.layouts["response"]
        while self.rsp_cons != self.words[RSP_PROD // 4]:
            where = self.entry(self.rsp_cons)
            raw = bytes(self.view[where : where + layout.sizeof()])
            self.garbage.append(raw)
            found = layout.parse(raw)
            self.rsp_cons = (self.rsp_cons + 1) % WRAP
            self.words[RSP_EVENT // 4] = (self.rsp_cons + 1) % WRAP
            yield int(found.id), int(found.operation), BlkifStatus(found.status)

    def wait_taken(self) -> None:
        """Wait until the backend has started everything pushed, and wants an event for the next."""
        wait_until(lambda: self.words[REQ_EVENT // 4] == (self.req_prod + 1) % WRAP)

    def drain(self) -> None:
        """Wait for all responses, and discard them."""
        wait_until(lambda: self.words[RSP_PROD // 4] == self.req_prod)
        self.rsp_cons = self.req_prod
        self.words[RSP_EVENT // 4] = (self.rsp_cons + 1) % WRAP

    def wait(self, count: int = 1) -> dict[int, BlkifStatus]:
        """The next `count` responses: {id: status}."""
        found: dict[int, BlkifStatus] = {}

        def enough() -> bool:
            found.update({id_: status for id_, _, status in self.responses()})
            return len(found) >= count

        wait_until(enough)
        assert len(found) == count
        return found

    # Requests.

    def next_id(self) -> int:
        self.ids += 1
        return 0xABCD_0000_0000_0000 + self.ids

    def rw(
        self, operation: int, sector: int, segs: Sequence[Seg], *, nr_segments: int | None = None
    ) -> int:
        """Put a read, a write, a barrier or a flush; return its id."""
        id_ = self.next_id()
        fields = [seg.fields() for seg in segs]
        fields += [Seg(0, 0, 0).fields()] * (11 - len(fields))
        request = {
            "operation": operation,
            "nr_segments": len(segs) if nr_segments is None else nr_segments,
            "handle": 0,
            "id": id_,
            "sector_number": sector,
            "seg": fields,
        }
        self.put(self.layouts["request"].build(request))
        return id_

    def indirect(
        self,
        operation: int,
        sector: int,
        segs: Sequence[Seg],
        *,
        page: int | None = None,
        nr_segments: int | None = None,
        ref: int | None = None,
    ) -> int:
        """Put an indirect request, whose segments lie in the page at `page`; return its id."""
        id_ = self.next_id()
        page = self.domain.page() if page is None else page
        data = b"".join(SEGMENT.build(seg.fields()) for seg in segs)
        self.domain.memory.write(page, data)
        request = {
            "indirect_op": operation,
            "nr_segments": len(segs) if nr_segments is None else nr_segments,
            "id": id_,
            "sector_number": sector,
            "handle": 0,
            "indirect_grefs": [self.domain.grant(page) if ref is None else ref] + [0] * 7,
        }
        self.put(self.layouts["indirect"].build(request))
        return id_

    def discard(self, sector: int, count: int, flag: int = 0) -> int:
        """Put a discard; return its id."""
        id_ = self.next_id()
        request = {
            "flag": flag,
            "handle": 0,
            "id": id_,
            "sector_number": sector,
            "nr_sectors": count,
        }
        self.put(self.layouts["discard"].build(request))
        return id_

    def do(self, operation: int, sector: int, *segs: Seg) -> BlkifStatus:
        """Put one request, and wait for its result."""
        id_ = self.rw(operation, sector, segs)
        self.push()
        return self.wait()[id_]

    def flush(self) -> BlkifStatus:
        """Flush, and wait."""
        return self.do(BlkifOp.FLUSH_DISKCACHE, 0)


class Disk:
    """A disk, in a domain of its own or that of `beside`, with the frontend's side of it."""

    def __init__(self, path: Path, options: str = "", beside: Disk | None = None) -> None:
        self.domain: FakeDomain = beside.domain if beside else FakeDomain()
        self.bus: Xenbus = beside.bus if beside else Xenbus(self.domain.peer)
        self.path = path
        (self.spec,) = with_targets([DiskSpec.parse(f"{path},persistent,{options}")])
        self.vbd = Vbd(self.domain.peer, self.spec)
        self.bus.attach(self.vbd)
        self.back = f"/local/domain/0/backend/vbd/1/{self.spec.number}"
        self.front = f"/local/domain/1/device/vbd/{self.spec.number}"
        self.queues: list[Queue] = []

    def connect(
        self,
        *,
        protocol: str = NATIVE,
        pages: int = 1,
        queues: int = 1,
        persistent: bool = False,
        start: int = 0,
        **nodes: object,
    ) -> Queue:
        """Make the rings, announce them, and wait until they are served; return the first of
        them."""
        self.offer(
            protocol=protocol,
            pages=pages,
            queues=queues,
            persistent=persistent,
            start=start,
            **nodes,
        )
        self.become(State.CONNECTED)
        return self.queues[0]

    def offer(
        self,
        *,
        protocol: str = NATIVE,
        pages: int = 1,
        queues: int = 1,
        persistent: bool = False,
        start: int = 0,
        **nodes: object,
    ) -> None:
        """Make the rings and write the nodes; `nodes` replaces the proper values."""
        self.queues = [Queue(self.domain, protocol, pages, start) for _ in range(queues)]
        said: dict[str, object] = {
            "protocol": protocol,
            "feature-persistent": int(persistent),
        }
        if pages > 1:
            said["ring-page-order"] = pages.bit_length() - 1
        if queues > 1:
            said["multi-queue-num-queues"] = queues
        for n, queue in enumerate(self.queues):
            prefix = f"queue-{n}/" if queues > 1 else ""
            said[f"{prefix}event-channel"] = queue.port
            for page, ref in enumerate(queue.refs):
                said[f"{prefix}ring-ref{page if pages > 1 else ''}"] = ref
        for key, value in (said | {k.replace("_", "-"): v for k, v in nodes.items()}).items():
            if value is not None:
                self.domain.set(f"{self.front}/{key}", value)
        self.domain.set(f"{self.front}/state", int(State.INITIALISED))

    def become(self, state: State) -> None:
        """Wait for the backend's state."""
        wait_until(lambda: self.domain.state(self.back) is state)

    def close_frontend(self) -> None:
        """Close as a driver does when its module is unloaded."""
        self.domain.set(f"{self.front}/state", int(State.CLOSING))
        self.become(State.CLOSING)
        self.domain.set(f"{self.front}/state", int(State.CLOSED))
        self.become(State.CLOSED)

    def node(self, key: str) -> str | None:
        """A node of the backend's."""
        return self.domain.read(f"{self.back}/{key}")

    @property
    def error(self) -> str | None:
        """The error that the backend reports."""
        return self.domain.read(f"/local/domain/0/error/backend/vbd/1/{self.spec.number}/error")

    def figures(self) -> dict[str, int]:
        return self.vbd.figures()

    def page(self, data: bytes = b"") -> tuple[int, int]:
        """A granted page that contains `data`: gpa and reference."""
        gpa = self.domain.page()
        self.domain.memory.write(gpa, data.ljust(PAGE_SIZE, b"\0"))
        return gpa, self.domain.grant(gpa)

    def end(self) -> None:
        """Stop everything; every grant must be returned and no error be ours."""
        self.bus.close()
        assert self.domain.failures == []
        assert self.domain.grants.pinned() == {}
