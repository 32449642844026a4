"""Measures packets over a network interface's rings, from a frontend in this process without a VM,
against the same bytes copied through a socket pair.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import plot
from benchmarks.page import table
from benchmarks.sample import Pair, Sample, in_turn
from kvmxen.backends.net.interface import Credit, Interface
from kvmxen.backends.net.link import StreamLink
from kvmxen.backends.net.queue import MulticastFilter, NetQueue
from kvmxen.kvm.layout import PAGE_SIZE
from kvmxen.ring.doorbell import Doorbell
from kvmxen.xen.abi import netif
from kvmxen.xen.abi.ring import REQ_PROD, RSP_EVENT
from tests.unit.backends.fake_domain import FakeDomain
from tests.unit.backends.net.frontend import SIZE, Ring

# A TCP frame without data, Ethernet's largest frame, a jumbo frame, and the largest packet.
LENGTHS = (60, 1514, 9014, 65_226)
_PAIRS, _SPARE = 9, 9
# Each measurement has about the same number of bytes, and at least a useful number of packets.
_BYTES, _LEAST = 64 << 20, 20_000
_BUFFER = 1 << 20
PLOT = Path("docs/net.svg")


@dataclass(frozen=True)
class Result:
    """One direction and length: seconds for `packets` packets over the ring and through the
    socket pair, and the ring's counts of kicks (from the guest), notifications (to it), system
    calls and bytes copied."""

    direction: str
    length: int
    packets: int
    times: Pair
    kicks: int
    notifications: int
    syscalls: int
    copied: int

    def speeds(self, seconds: Sample) -> Sample:
        """MB (10^6 bytes) per second."""
        return Sample.of([self.packets * self.length / value / 1e6 for value in seconds.values])


class _Drain:
    """Reads from a socket in a thread; `wait(n)` waits until it has read `n` bytes in all."""

    def __init__(self, source: socket.socket) -> None:
        self._source = source
        self._taken = 0
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        buffer = bytearray(_BUFFER)
        while count := self._source.recv_into(buffer):
            with self._changed:
                self._taken += count
                self._changed.notify()

    def wait(self, total: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._taken >= total)


class Bench:
    """An interface with rings full of packets of `length` bytes, in a thread of its own."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.slots = -(-length // PAGE_SIZE)
        self.batch = SIZE // self.slots
        domain = FakeDomain()
        self._domain = domain
        self.tx = Ring(domain, netif.TX_REQUEST, netif.TX_RESPONSE, 0)
        self.rx = Ring(domain, netif.RX_REQUEST, netif.RX_RESPONSE, 0)
        self.peer, self._ours = socket.socketpair()
        for end in (self.peer, self._ours):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self._ours.setblocking(False)
        self._done = {"tx": threading.Semaphore(0), "rx": threading.Semaphore(0)}
        self._doorbell = Doorbell()
        queue = NetQueue(
            domain.grants, self.tx.back(), self.rx.back(), MulticastFilter(),
            self._done["tx"].release, self._done["rx"].release,
        )  # fmt: skip
        self.interface = Interface(
            StreamLink(self._ours.fileno()), [queue], Credit(0, 1), self._doorbell, lambda: None
        )
        self._pages = [domain.grant(domain.page()) for _ in range(self.slots * self.batch)]
        self._requests = {"tx": self._tx_requests(), "rx": self._rx_requests()}
        self._thread = threading.Thread(target=self.interface.run)
        self._thread.start()

    def _tx_requests(self) -> bytes:
        requests = []
        for index, ref in enumerate(self._pages):
            slot = index % self.slots
            left = self.length - slot * PAGE_SIZE
            last = slot == self.slots - 1
            requests.append(
                netif.TX_REQUEST.build(
                    {
                        "gref": ref,
                        "offset": 0,
                        "flags": 0 if last else netif.TX_MORE_DATA,
                        "id": index,
                        "size": self.length if slot == 0 else min(left, PAGE_SIZE),
                    }
                )
            )
        return b"".join(requests)

    def _rx_requests(self) -> bytes:
        return b"".join(
            netif.RX_REQUEST.build({"id": index, "gref": ref})
            for index, ref in enumerate(self._pages)
        )

    def fill(self, ring: Ring, which: str) -> None:
        """A batch of requests, with one event when all of them are answered."""
        requests = self._requests[which]
        first = (SIZE - ring.req_prod % SIZE) * ring.entry_size
        self._domain.memory.write(ring.entry(ring.req_prod), requests[:first])
        self._domain.memory.write(ring.entry(0), requests[first:])
        ring.req_prod += len(self._pages)
        ring.store(RSP_EVENT, ring.req_prod)
        ring.store(REQ_PROD, ring.req_prod)
        self._doorbell.ring()

    def wait(self, which: str) -> None:
        """Wait until the batch is answered."""
        self._done[which].acquire()

    def close(self) -> None:
        self.interface.stop()
        self._thread.join()
        self.peer.close()
        self._ours.close()
        self._doorbell.close()


def _transmit(length: int) -> Result:
    bench = Bench(length)
    drain = _Drain(bench.peer)
    plain = _plain_copy(length, bench.batch)
    batches = max(_BYTES // length, _LEAST) // bench.batch
    sent = 0

    def ring() -> float:
        nonlocal sent
        begin = time.perf_counter()
        for _ in range(batches):
            bench.fill(bench.tx, "tx")
            bench.wait("tx")
        sent += batches * bench.batch * (4 + length)
        drain.wait(sent)
        return time.perf_counter() - begin

    times = in_turn(ring, lambda: plain(batches), _PAIRS, _SPARE)
    return _result("guest to link", bench, batches, times)


def _receive(length: int) -> Result:
    bench = Bench(length)
    plain = _plain_copy(length, bench.batch)
    batches = max(_BYTES // length, _LEAST) // bench.batch
    frames = (length.to_bytes(4, "big") + bytes(length)) * bench.batch

    def ring() -> float:
        begin = time.perf_counter()
        for _ in range(batches):
            bench.fill(bench.rx, "rx")
            bench.peer.sendall(frames)
            bench.wait("rx")
        return time.perf_counter() - begin

    times = in_turn(ring, lambda: plain(batches), _PAIRS, _SPARE)
    return _result("link to guest", bench, batches, times)


def _result(direction: str, bench: Bench, batches: int, times: Pair) -> Result:
    figures = bench.interface.figures()
    bench.close()
    packets = figures["tx_packets"] + figures["rx_packets"]
    runs = _PAIRS + _SPARE + 1
    assert packets == batches * bench.batch * runs
    assert figures["tx_errors"] == figures["rx_errors"] == figures["tx_dropped"] == 0
    return Result(
        direction, bench.length, batches * bench.batch, times,
        *(figures[name] // runs for name in
          ("kicks", "notifications", "syscalls", "bytes_copied")),
    )  # fmt: skip


def _plain_copy(length: int, batch: int) -> Callable[[int], float]:
    """The seconds that as many frames take from one end of a socket pair to the other."""
    near, far = socket.socketpair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    drain = _Drain(far)
    frames = (length.to_bytes(4, "big") + bytes(length)) * batch
    sent = 0

    def copy(batches: int) -> float:
        nonlocal sent
        begin = time.perf_counter()
        for _ in range(batches):
            near.sendall(frames)
        sent += batches * len(frames)
        drain.wait(sent)
        return time.perf_counter() - begin

    return copy


def measure() -> str:
    """The table; and the plot."""
    results = [run(length) for run in (_transmit, _receive) for length in LENGTHS]
    draw(results)
    return report(results)


def draw(results: list[Result], path: Path = PLOT) -> None:
    """Draw the bytes per second of both sides, with their spread, into the SVG file `path`."""
    directions = list(dict.fromkeys(result.direction for result in results))
    with plot.figure(path, len(directions), (7.5, 2.8)) as panels:
        for axes, direction in zip(panels, directions, strict=True):
            shown = [result for result in results if result.direction == direction]
            series = {
                "ring": [result.speeds(result.times.first) for result in shown],
                "socket pair": [result.speeds(result.times.second) for result in shown],
            }
            plot.bars(axes, [f"{result.length:,} bytes" for result in shown], series)
            axes.set_yscale("log")
            axes.set_title(direction, fontsize=9)
        panels[0].set_ylabel("MB a second")
        panels[0].legend(fontsize=7, frameon=False)


def report(results: list[Result]) -> str:
    """The table of `results`."""
    rows = []
    for each in results:
        rate = Sample.of([each.packets / seconds for seconds in each.times.first.values])
        rows.append(
            [
                f"{each.direction}, {each.length:,} bytes",
                rate.show(",.0f"),
                each.speeds(each.times.first).show(",.0f"),
                each.times.ratio.show(".2f"),
                *(f"{count / each.packets:.4f}" for count in
                  (each.kicks, each.notifications, each.syscalls)),
                f"{each.copied / each.packets:,.0f}",
            ]
        )  # fmt: skip
    return table(
        [
            "packets",
            "packets/s",
            "MB/s",
            "time ratio",
            "kicks",
            "notifications",
            "system calls",
            "copied",
        ],
        rows,
    )
