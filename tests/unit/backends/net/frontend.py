"""A frontend's end of a network interface, after the header: rings in the guest's memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from construct import Construct

from kvmxen.kvm.layout import PAGE_SIZE
from kvmxen.kvm.memory import Window
from kvmxen.ring.shared_ring import BackRing
from kvmxen.xen.abi import netif
from kvmxen.xen.abi.ring import ENTRIES, REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD
from tests.unit.backends.fake_domain import FakeDomain

WRAP = 1 << 32
SIZE = 256
Fields = Mapping[str, Any]


class Ring:
    """The frontend's end of a ring of one page, whose indices begin at `start`."""

    def __init__(self, domain: FakeDomain, request: Construct, response: Construct, start: int):
        self.domain = domain
        self.gpa = domain.page()
        self.ref = domain.grant(self.gpa)
        self.request_layout, self.response_layout = request, response
        self.entry_size: int = max(request.sizeof(), response.sizeof())
        self.req_prod = self.rsp_cons = start % WRAP
        for field, value in (
            (REQ_PROD, start),
            (RSP_PROD, start),
            (REQ_EVENT, start + 1),
            (RSP_EVENT, start + 1),
        ):
            self.store(field, value)

    def store(self, field: int, value: int) -> None:
        self.domain.memory.write_u32(self.gpa + field, value % WRAP)

    def load(self, field: int) -> int:
        return self.domain.memory.read_u32(self.gpa + field)

    def entry(self, index: int) -> int:
        return self.gpa + ENTRIES + index % SIZE * self.entry_size

    def back(self) -> BackRing:
        """The other end."""
        window = Window(self.domain.memory, [self.gpa])
        return BackRing(window, self.request_layout.sizeof(), self.response_layout.sizeof())

    def put(self, entry: bytes) -> None:
        """Put a request, which is not visible yet."""
        self.domain.memory.write(self.entry(self.req_prod), entry)
        self.req_prod = (self.req_prod + 1) % WRAP

    def push(self) -> bool:
        """Publish all requests; return whether the backend wants an event."""
        old = self.load(REQ_PROD)
        self.store(REQ_PROD, self.req_prod)
        wanted = self.load(REQ_EVENT)
        return (self.req_prod - wanted) % WRAP < (self.req_prod - old) % WRAP

    def take(self) -> list[bytes]:
        """The entries of all responses so far; asks for an event with the next."""
        taken = []
        while self.rsp_cons != self.load(RSP_PROD):
            taken.append(self.domain.memory.read(self.entry(self.rsp_cons), self.entry_size))
            self.rsp_cons = (self.rsp_cons + 1) % WRAP
        self.store(RSP_EVENT, self.rsp_cons + 1)
        return taken


class NetFrontend:
    """A transmit and a receive ring, and buffers for them."""

    def __init__(self, domain: FakeDomain, start: int = 0) -> None:
        self.domain = domain
        self.tx = Ring(domain, netif.TX_REQUEST, netif.TX_RESPONSE, start)
        self.rx = Ring(domain, netif.RX_REQUEST, netif.RX_RESPONSE, start)
        # One for each entry: each waiting request has its own.
        self._buffers = [(gpa := domain.page(), domain.grant(gpa)) for _ in range(SIZE)]
        self._used = 0
        self._posted: dict[int, int] = {}
        self._next = 0

    # Transmitting.

    def slots(self, data: bytes, sizes: list[int], **first: int) -> list[dict[str, int]]:
        """Requests for `data`, in slots of `sizes` bytes, whose pages hold it at odd offsets."""
        assert sum(sizes) == len(data)
        requests: list[dict[str, int]] = []
        at = 0
        for index, size in enumerate(sizes):
            gpa, ref = self._buffers[self._used % SIZE]
            self._used += 1
            offset = min(index * 3 + 1, PAGE_SIZE - size)
            self.domain.memory.write(gpa + offset, data[at : at + size])
            more = netif.TX_MORE_DATA if index < len(sizes) - 1 else 0
            requests.append(
                {"gref": ref, "offset": offset, "flags": more, "id": 100 + index, "size": size}
            )
            at += size
        requests[0]["size"] = len(data)
        requests[0]["flags"] |= first.pop("flags", 0)
        requests[0].update(first)
        return requests

    def transmit(self, requests: list[dict[str, int]], extras: list[bytes] | None = None) -> bool:
        """Put `requests`, with `extras` after the first, and push."""
        for index, request in enumerate(requests):
            self.tx.put(netif.TX_REQUEST.build(request))
            if index == 0:
                for extra in extras or []:
                    self.tx.put(extra.ljust(12, b"\xee"))
        return self.tx.push()

    def send(self, data: bytes, sizes: list[int] | None = None, **first: int) -> bool:
        """Transmit a packet."""
        return self.transmit(self.slots(data, sizes or [len(data)], **first))

    def statuses(self) -> list[tuple[int, int]]:
        """The (id, status) of each response to a request that was not an extra."""
        answers = [netif.TX_RESPONSE.parse(entry) for entry in self.tx.take()]
        return [(each["id"], each["status"]) for each in answers if each["status"] != 1]

    # Receiving.

    def post(self, count: int, refs: list[int] | None = None) -> bool:
        """Post buffers: fresh pages, or those granted by `refs`."""
        for index in range(count):
            gpa = self.domain.page()
            ref = refs[index] if refs else self.domain.grant(gpa)
            self._posted[self._next] = gpa
            self.rx.put(netif.RX_REQUEST.build({"id": self._next, "gref": ref}))
            self._next += 1
        return self.rx.push()

    def receive(self) -> list[tuple[bytes, int, Fields | None]]:
        """The packets so far: the data, the first response's other flags, its GSO information."""
        packets = []
        entries = self.rx.take()
        while entries:
            first = netif.RX_RESPONSE.parse(entries.pop(0))
            extra = None
            if first["flags"] & netif.RX_EXTRA_INFO:
                extra = netif.EXTRA_GSO_INFO.parse(entries.pop(0))
            data, each = self._data(first), first
            while each["flags"] & netif.RX_MORE_DATA:
                each = netif.RX_RESPONSE.parse(entries.pop(0))
                data += self._data(each)
            packets.append((data, int(first["flags"]) & ~netif.RX_MORE_DATA, extra))
        return packets

    def _data(self, response: Fields) -> bytes:
        assert response["offset"] == 0
        assert 0 <= response["status"] <= PAGE_SIZE
        return self.domain.memory.read(self._posted.pop(response["id"]), response["status"])


def gso(size: int, kind: int = netif.GSO_TCPV4, more: bool = False) -> bytes:
    """The extra information of a packet to be cut into segments of `size` bytes."""
    fields = {"type": netif.EXTRA_GSO, "flags": int(more), "size": size, "gso_type": kind}
    return bytes(netif.EXTRA_GSO_INFO.build({**fields, "features": 0}))


def multicast(kind: int, address: bytes, more: bool = False) -> bytes:
    """The extra information that adds an address to the filter, or removes it."""
    return bytes(
        netif.EXTRA_MCAST_INFO.build({"type": kind, "flags": int(more), "addr": list(address)})
    )
