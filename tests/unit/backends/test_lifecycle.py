"""The lifecycle of every device: it can be offered, connected, disconnected and closed in any
order that the bus may choose, and leaves nothing behind.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvmxen.backends.block.vbd import Vbd
from kvmxen.backends.frontend import FrontendError, FrontendNodes
from kvmxen.backends.net.vif import Vif
from kvmxen.backends.xenbus import Device
from kvmxen.config.disk import DiskSpec, with_targets
from kvmxen.xen.abi.blkif import NATIVE
from tests.e2e import disks
from tests.unit.backends.block.frontend import Queue
from tests.unit.backends.block.scarcity import open_descriptors
from tests.unit.backends.fake_domain import FakeDomain, wait_until
from tests.unit.backends.net.frontend import NetFrontend
from tests.unit.backends.net.test_vif import MAC, Pair

FRONT = "/local/domain/1/device/it"
# Valid neither as a grant reference nor as a port.
NONSENSE = "4000000000"


class Bench:
    """A domain, one device, and a frontend that may connect to it any number of times."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.domain = FakeDomain()
        self.domain.store.mkdir(FRONT)
        self.broken: list[FrontendError] = []
        make: dict[str, Callable[[], tuple[Device, Callable[[], dict[str, object]]]]] = {
            "vif": self._vif,
            "raw": lambda: self._vbd(folder, "raw"),
            "qcow2": lambda: self._vbd(folder, "qcow2"),
        }
        self.threads = set(threading.enumerate())
        # Dropped domains of other tests close their descriptors only when they are collected.
        gc.collect()
        self.fds = open_descriptors()
        self.device, self._nodes = make[kind]()

    def _vbd(self, folder: Path, form: str) -> tuple[Device, Callable[[], dict[str, object]]]:
        path = folder / f"image.{form}"
        disks.run("qemu-img", "create", "-q", "-f", form, path, "1M")
        (spec,) = with_targets([DiskSpec.parse(f"{path},{form}")])

        def nodes() -> dict[str, object]:
            queue = Queue(self.domain, NATIVE)
            return {"ring-ref": queue.refs[0], "event-channel": queue.port, "protocol": NATIVE}

        return Vbd(self.domain.peer, spec), nodes

    def _vif(self) -> tuple[Device, Callable[[], dict[str, object]]]:
        self.wire = Pair()

        def nodes() -> dict[str, object]:
            front = NetFrontend(self.domain)
            port = self.domain.events.alloc_unbound(0)
            rings = {"tx-ring-ref": front.tx.ref, "rx-ring-ref": front.rx.ref}
            return {"request-rx-copy": 1, "event-channel": port, **rings}

        vif = Vif(self.domain.peer, 0, self.wire, mac=MAC, queues=1, rate=None)
        return vif, nodes

    def connect(self, **wrong: object) -> None:
        """Write a frontend's nodes, and connect; `wrong` replaces some of the nodes."""
        nodes = self._nodes()
        for key, value in (nodes | wrong).items():
            self.domain.set(f"{FRONT}/{key}", value)
        self.device.connect(FrontendNodes(self.domain.peer, FRONT), self.broken.append)

    @property
    def required(self) -> list[str]:
        """The nodes that a frontend must write."""
        return [key for key in self._nodes() if key != "protocol"]

    def holds_nothing_of_the_guest(self) -> bool:
        return not self.domain.grants.pinned()


@pytest.fixture(params=["raw", "qcow2", "vif"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(request.param, tmp_path)
    yield bench
    bench.device.close()
    if hasattr(bench, "wire"):
        bench.wire.peer.close()
    wait_until(lambda: set(threading.enumerate()) <= bench.threads)
    assert bench.holds_nothing_of_the_guest()
    gc.collect()
    assert open_descriptors() == bench.fds
    assert bench.broken == []


def test_one_that_nobody_connects_to(bench: Bench) -> None:
    ours, theirs = bench.device.describe()
    assert "backend" not in {*ours, *theirs}
    assert bench.device.offer()
    assert not any(bench.device.figures().values())


def test_it_is_offered_the_same_each_time(bench: Bench) -> None:
    first = dict(bench.device.offer())
    bench.connect()
    bench.device.disconnect()
    assert dict(bench.device.offer()) == first


def test_frontends_come_and_go(bench: Bench) -> None:
    bench.device.offer()
    for _ in range(3):
        bench.connect()
        assert not bench.holds_nothing_of_the_guest()
        bench.device.settle()
        bench.device.disconnect()
        assert bench.holds_nothing_of_the_guest()


def test_the_figures_of_all_frontends_count(bench: Bench) -> None:
    names = set()
    for _ in range(2):
        bench.connect()
        names.add(frozenset(bench.device.figures()))
        bench.device.disconnect()
        names.add(frozenset(bench.device.figures()))
    assert len(names) == 1


def test_a_frontend_that_is_refused_leaves_nothing(bench: Bench) -> None:
    for key in bench.required:
        for wrong in ("", "not a number", NONSENSE):
            with pytest.raises(FrontendError):
                bench.connect(**{key: wrong})
            assert bench.holds_nothing_of_the_guest()
    bench.connect()
    bench.device.disconnect()


def test_nothing_on_the_host_changed(bench: Bench) -> None:
    if bench.device.changes:
        assert dict(bench.device.refresh()) == {}
