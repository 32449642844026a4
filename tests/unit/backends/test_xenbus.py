"""The bus: the sequence of states, the work between them, and the mistakes of frontends."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmxen.backends.frontend import EventChannel, FrontendError, FrontendNodes, RingPages
from kvmxen.backends.xenbus import TABLE, Device, Nodes, Xenbus
from kvmxen.errors import KvmxenError
from kvmxen.kvm.layout import PAGE_SIZE
from kvmxen.xen.abi.xenbus import XenbusState as State
from tests.unit.backends.fake_domain import PATIENCE, FakeDomain, wait_until

BACK = "/local/domain/0/backend/vtest/1/3"
FRONT = "/local/domain/1/device/vtest/3"
ERROR = "/local/domain/0/error/backend/vtest/1/3/error"


class Recorder(Device):
    """Records the bus's calls."""

    kind = "vtest"

    def __init__(self, index: int = 3) -> None:
        self.index = index
        self.log: list[str] = []
        self.refuse = False
        self.broken: Callable[[FrontendError], None] = lambda error: None

    def describe(self) -> tuple[Nodes, Nodes]:
        return {"params": "p"}, {"device-type": "test"}

    def offer(self) -> Nodes:
        self.log.append("offer")
        return {"feature-x": 1}

    def connect(self, frontend: FrontendNodes, broken: Callable[[FrontendError], None]) -> Nodes:
        if self.refuse:
            raise FrontendError(errno.EINVAL, "no")
        self.log.append("connect")
        self.broken = broken
        return {"sectors": 8}

    def disconnect(self) -> None:
        self.log.append("disconnect")

    def close(self) -> None:
        self.log.append("close")

    def figures(self) -> dict[str, int]:
        return {"steps": len(self.log)}


@pytest.fixture
def domain() -> FakeDomain:
    return FakeDomain()


@pytest.fixture
def bus(domain: FakeDomain) -> Iterator[Xenbus]:
    bus = Xenbus(domain.peer)
    yield bus
    bus.close()
    assert domain.failures == []


def become(domain: FakeDomain, theirs: State, ours: State) -> None:
    """Set the frontend's state to `theirs`; wait until the backend's is `ours`."""
    domain.set(f"{FRONT}/state", int(theirs))
    wait_until(lambda: domain.state(BACK) is ours)


def test_attach_shows_both_ends(domain: FakeDomain, bus: Xenbus) -> None:
    device = Recorder()
    bus.attach(device)
    nodes = {key: domain.read(f"{BACK}/{key}") for key in domain.store.directory(BACK)}
    assert nodes == {
        "frontend": FRONT,
        "frontend-id": "1",
        "online": "1",
        "hotplug-status": "connected",
        "params": "p",
        "feature-x": "1",
        "state": "2",
    }
    nodes = {key: domain.read(f"{FRONT}/{key}") for key in domain.store.directory(FRONT)}
    assert nodes == {"backend": BACK, "backend-id": "0", "device-type": "test", "state": "1"}
    assert [p.domid for p in domain.store.permissions(BACK)] == [0, 1]
    assert [p.domid for p in domain.store.permissions(FRONT)] == [1, 0]
    assert bus.figures() == {"vtest/3": {"steps": 1}}


def test_a_life(domain: FakeDomain, bus: Xenbus) -> None:
    device = Recorder()
    bus.attach(device)
    for _ in range(2):
        become(domain, State.INITIALISED, State.CONNECTED)
        assert domain.read(f"{BACK}/sectors") == "8"
        become(domain, State.CONNECTED, State.CONNECTED)
        # The module is unloaded, and loaded again.
        become(domain, State.CLOSING, State.CLOSING)
        become(domain, State.CLOSED, State.CLOSED)
        become(domain, State.INITIALISING, State.INIT_WAIT)
    assert device.log == ["offer", *["connect", "disconnect", "offer"] * 2]


def test_a_frontend_that_starts_afresh_without_an_end(domain: FakeDomain, bus: Xenbus) -> None:
    device = Recorder()
    bus.attach(device)
    become(domain, State.CONNECTED, State.CONNECTED)
    become(domain, State.INITIALISING, State.INIT_WAIT)
    become(domain, State.CONNECTED, State.CONNECTED)
    assert device.log == ["offer", "connect", "disconnect", "offer", "connect"]


def test_detach_waits_for_the_frontend(domain: FakeDomain, bus: Xenbus) -> None:
    device = Recorder()
    bus.attach(device)
    become(domain, State.CONNECTED, State.CONNECTED)
    assert not bus.detach("vtest", 3, 0)
    assert domain.state(BACK) is State.CLOSING
    assert domain.read(f"{BACK}/online") == "0"
    assert device.log[-1] == "connect"
    domain.set(f"{FRONT}/state", int(State.CLOSING))
    domain.set(f"{FRONT}/state", int(State.CLOSED))
    wait_until(lambda: bus.figures() == {})
    assert device.log[-2:] == ["disconnect", "close"]
    assert not domain.store.exists(BACK)
    assert not domain.store.exists(FRONT)
    with pytest.raises(KvmxenError, match="no vtest 3"):
        bus.detach("vtest", 3, 0)
    bus.attach(Recorder())


def test_remove_does_not_wait(domain: FakeDomain, bus: Xenbus) -> None:
    device = Recorder()
    bus.attach(device)
    become(domain, State.CONNECTED, State.CONNECTED)
    bus.remove("vtest", 3)
    assert device.log[-2:] == ["disconnect", "close"]
    assert not domain.store.exists(BACK)


def test_two_of_a_number(domain: FakeDomain, bus: Xenbus) -> None:
    bus.attach(Recorder())
    bus.attach(Recorder(4))
    with pytest.raises(KvmxenError, match="already"):
        bus.attach(Recorder())


def test_a_frontend_that_is_refused(domain: FakeDomain, bus: Xenbus) -> None:
    device = Recorder()
    device.refuse = True
    bus.attach(device)
    become(domain, State.INITIALISED, State.CLOSING)
    assert domain.read(ERROR) == "-22 no"
    become(domain, State.CLOSED, State.CLOSED)
    device.refuse = False
    become(domain, State.INITIALISING, State.INIT_WAIT)
    become(domain, State.INITIALISED, State.CONNECTED)


def test_a_frontend_that_breaks_while_it_is_served(domain: FakeDomain, bus: Xenbus) -> None:
    device = Recorder()
    bus.attach(device)
    become(domain, State.INITIALISED, State.CONNECTED)
    device.broken(FrontendError(errno.EIO, "index"))
    wait_until(lambda: domain.state(BACK) is State.CLOSING)
    assert domain.read(ERROR) == "-5 index"
    assert device.log[-1] == "disconnect"
    # It is not served until it starts anew.
    become(domain, State.CONNECTED, State.CLOSING)


class Slow(Recorder):
    """Releases the guest's memory only when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.go = threading.Event(), threading.Event()

    def disconnect(self) -> None:
        self.entered.set()
        assert self.go.wait(PATIENCE)
        super().disconnect()


def test_however_often_a_guest_calls_the_bus_has_one_look_to_take(
    domain: FakeDomain, bus: Xenbus
) -> None:
    """XSA-349: a device may take a minute to disconnect, and the guest does not wait for it."""
    device = Slow()
    bus.attach(device)
    become(domain, State.CONNECTED, State.CONNECTED)
    domain.set(f"{FRONT}/state", int(State.CLOSED))
    assert device.entered.wait(PATIENCE)
    for number in range(1000):
        domain.set(f"{FRONT}/state", int(State.INITIALISING))
        domain.set(f"{FRONT}/state/{number}", "")
        device.broken(FrontendError(errno.EIO, "index"))
    assert bus._work.qsize() == 1
    device.go.set()
    # The queued check sees the current state; the failure belonged to the previous connection.
    wait_until(lambda: domain.state(BACK) is State.INIT_WAIT)
    assert domain.read(ERROR) is None


@pytest.mark.parametrize("text", ["", "9", "-1", "x", "0x4", "4 ", "9" * 30, "\N{SNOWMAN}"])
def test_a_state_that_is_none(domain: FakeDomain, bus: Xenbus, text: str) -> None:
    bus.attach(Recorder())
    domain.set(f"{FRONT}/state", text)
    wait_until(lambda: domain.state(BACK) is State.CLOSING)
    assert domain.read(ERROR) is not None


def test_a_frontend_without_its_directory(domain: FakeDomain, bus: Xenbus) -> None:
    device = Recorder()
    bus.attach(device)
    become(domain, State.CONNECTED, State.CONNECTED)
    domain.store.rm(FRONT)
    wait_until(lambda: domain.state(BACK) is State.CLOSED)
    assert device.log[-1] == "disconnect"


@given(st.lists(st.sampled_from(State), max_size=20))
def test_any_states(states: list[State]) -> None:
    domain = FakeDomain()
    bus = Xenbus(domain.peer)
    device = Recorder()
    bus.attach(device)
    for state in states:
        domain.set(f"{FRONT}/state", int(state))
    bus.close()
    assert domain.failures == []
    assert device.log.count("connect") == device.log.count("disconnect")
    assert device.log[-1] == "close"


def test_the_table_only_leads_where_the_table_goes_on() -> None:
    for row in TABLE.values():
        assert set(row.values()) <= set(TABLE)
    assert set(TABLE[State.CLOSED].values()) == {State.INIT_WAIT}


def test_the_bus_has_ended(domain: FakeDomain) -> None:
    bus = Xenbus(domain.peer)
    bus.close()
    with pytest.raises(KvmxenError, match="the domain is ending"):
        bus.attach(Recorder())


# The rings and ports that a frontend names.


@pytest.fixture
def nodes(domain: FakeDomain) -> FrontendNodes:
    return FrontendNodes(domain.peer, FRONT)


def test_numbers(domain: FakeDomain, nodes: FrontendNodes) -> None:
    domain.set(f"{FRONT}/a", 7)
    domain.set(f"{FRONT}/queue-0/b", "0012")
    assert (nodes.number("a", 7), nodes.number("queue-0/b", 100)) == (7, 12)
    assert nodes.number("c", 7, 5) == 5
    with pytest.raises(FrontendError, match="c is missing") as raised:
        nodes.number("c", 7)
    assert raised.value.errno == errno.ENOENT
    with pytest.raises(FrontendError, match="0 to 6"):
        nodes.number("a", 6)
    domain.set(f"{FRONT}/on", 1)
    assert nodes.flag("on")
    assert not nodes.flag("off")
    domain.set(f"{FRONT}/on", 2)
    with pytest.raises(FrontendError):
        nodes.flag("on")


def test_ring_pages(domain: FakeDomain) -> None:
    gpas = [domain.page() for _ in range(3)][::-1]
    refs = [domain.grant(gpa) for gpa in gpas]
    pages = RingPages(domain.peer, refs)
    domain.memory.write(gpas[1], b"here")
    assert bytes(pages.window.view()[PAGE_SIZE : PAGE_SIZE + 4]) == b"here"
    assert set(domain.grants.pinned()) == set(refs)
    pages.close()
    assert domain.grants.pinned() == {}


def test_ring_pages_that_are_not_granted(domain: FakeDomain) -> None:
    good = domain.grant(domain.page())
    for bad in (9999, domain.grant_readonly(domain.page()), domain.grant(0)):
        with pytest.raises(FrontendError, match="mapping the ring"):
            RingPages(domain.peer, [good, bad])
    assert domain.grants.pinned() == {}


def test_a_channel(domain: FakeDomain) -> None:
    port = domain.events.alloc_unbound(0)
    channel = EventChannel(domain.peer, port)
    domain.events.send(port)
    assert channel.doorbell.unread == 1
    channel.notify()
    assert domain.is_pending(port)
    with pytest.raises(FrontendError, match="not waiting"):
        EventChannel(domain.peer, port)
    channel.close()
    domain.events.send(port)
    channel.notify()
    assert not domain.is_pending(port)
    assert channel.doorbell.unread == 1
    EventChannel(domain.peer, port).close()


def test_a_port_that_became_anothers(domain: FakeDomain) -> None:
    port = domain.events.alloc_unbound(0)
    channel = EventChannel(domain.peer, port)
    domain.events.close(port)
    assert domain.events.alloc_unbound(0) == port
    other = EventChannel(domain.peer, port)
    channel.notify()
    assert not domain.is_pending(port)
    channel.close()
    other.notify()
    assert domain.is_pending(port)
    other.close()
