"""Event channels: tables of (operation, expected), the bits of the 2-level ABI, and races."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmxen.errors import HypercallError
from kvmxen.kvm.memory import GuestMemory
from kvmxen.xen.abi.xen import (
    DOMID_GUEST,
    EVTCHN_2L_NR_CHANNELS,
    NR_VIRQS,
    SHARED_INFO_EVTCHN_MASK,
    SHARED_INFO_EVTCHN_PENDING,
    VCPU_INFO_PENDING_SEL,
    VCPU_INFO_SIZE,
    VCPU_INFO_UPCALL_MASK,
    VCPU_INFO_UPCALL_PENDING,
    Virq,
)
from kvmxen.xen.events import EventChannels, Status

SHARED_INFO = 0x1000
VCPUS = 3


class Guest:
    """Event channels of three vCPUs over real memory, and the guest's view of them."""

    def __init__(self) -> None:
        self.memory = GuestMemory(0x4000)
        self.kicked: list[int] = []
        self.listened: list[tuple[int, int, bool]] = []
        self.ipis: list[tuple[int, int | None]] = []
        self.events = EventChannels(
            self.memory,
            SHARED_INFO,
            VCPUS,
            self.info,
            self.kicked.append,
            bind_ipi=lambda port, vcpu: self.ipis.append((port, vcpu)),
            listen=self.listen,
        )

    def listen(self, port: int, eventfd: int, on: bool) -> bool:
        self.listened.append((port, eventfd, on))
        return on

    @staticmethod
    def info(vcpu: int) -> int:
        return SHARED_INFO + vcpu * VCPU_INFO_SIZE

    def pending(self) -> set[int]:
        return {
            port
            for port in range(EVTCHN_2L_NR_CHANNELS)
            if self.memory.test_bit(SHARED_INFO + SHARED_INFO_EVTCHN_PENDING, port)
        }

    def mask(self, port: int) -> None:
        self.memory.set_bit(SHARED_INFO + SHARED_INFO_EVTCHN_MASK, port)

    def upcall(self, vcpu: int) -> tuple[int, int]:
        """(evtchn_upcall_pending, evtchn_pending_sel) of `vcpu`."""
        info = self.info(vcpu)
        return (
            self.memory.read(info + VCPU_INFO_UPCALL_PENDING, 1)[0],
            self.memory.read_u64(info + VCPU_INFO_PENDING_SEL),
        )

    def take(self, vcpu: int) -> set[int]:
        """Act as the guest's upcall handler: return the ports found on `vcpu`."""
        info = self.info(vcpu)
        self.memory.write_u8(info + VCPU_INFO_UPCALL_PENDING, 0)
        selected = self.memory.read_u64(info + VCPU_INFO_PENDING_SEL)
        self.memory.write_u64(info + VCPU_INFO_PENDING_SEL, 0)
        found = set()
        for port in range(EVTCHN_2L_NR_CHANNELS):
            masked = self.memory.test_bit(SHARED_INFO + SHARED_INFO_EVTCHN_MASK, port)
            if (
                selected >> (port >> 6) & 1
                and not masked
                and self.memory.clear_bit(SHARED_INFO + SHARED_INFO_EVTCHN_PENDING, port)
            ):
                found.add(port)
        return found


@pytest.fixture
def guest() -> Guest:
    return Guest()


Operation = Callable[[EventChannels], object]
# Ports: 1 unbound for dom0, 2 unbound for ourselves, 3 an IPI, 4 the timer of vCPU 1,
# 5 VIRQ_CONSOLE, 6 closed, 7 a backend's.
REFUSED: list[tuple[str, Operation, int]] = [
    ("port 0", lambda e: e.send(0), errno.EINVAL),
    ("no such port", lambda e: e.send(8), errno.EINVAL),
    ("the last port", lambda e: e.send(EVTCHN_2L_NR_CHANNELS - 1), errno.EINVAL),
    ("a port out of range", lambda e: e.send(0xFFFFFFFF), errno.EINVAL),
    ("send to a virq", lambda e: e.send(4), errno.EINVAL),
    ("send to a closed port", lambda e: e.send(6), errno.EINVAL),
    ("close a closed port", lambda e: e.close(6), errno.EINVAL),
    ("close port 0", lambda e: e.close(0), errno.EINVAL),
    ("unmask no port", lambda e: e.unmask(0x10000), errno.EINVAL),
    ("poll no port", lambda e: e.is_pending(99), errno.EINVAL),
    ("virq out of range", lambda e: e.bind_virq(NR_VIRQS, 0), errno.EINVAL),
    ("a global virq elsewhere", lambda e: e.bind_virq(Virq.DOM_EXC, 1), errno.EINVAL),
    ("a virq of no vCPU", lambda e: e.bind_virq(Virq.TIMER, VCPUS), errno.ENOENT),
    ("a virq twice", lambda e: e.bind_virq(Virq.TIMER, 1), errno.EEXIST),
    ("a global virq twice", lambda e: e.bind_virq(Virq.CONSOLE, 0), errno.EEXIST),
    ("an IPI of no vCPU", lambda e: e.bind_ipi(VCPUS), errno.ENOENT),
    ("move to no vCPU", lambda e: e.bind_vcpu(1, 0xFFFFFFFF), errno.ENOENT),
    ("move an IPI", lambda e: e.bind_vcpu(3, 0), errno.EINVAL),
    ("move a per-vCPU virq", lambda e: e.bind_vcpu(4, 0), errno.EINVAL),
    ("move a closed port", lambda e: e.bind_vcpu(6, 0), errno.EINVAL),
    ("bind to what is dom0's", lambda e: e.bind_interdomain(1), errno.EINVAL),
    ("bind to what is bound", lambda e: e.bind_interdomain(7), errno.EINVAL),
    ("bind to nothing", lambda e: e.bind_interdomain(0), errno.EINVAL),
    ("a backend at the guest's own", lambda e: e.connect_backend(2, print), errno.EINVAL),
    ("a backend at an IPI", lambda e: e.connect_backend(3, print), errno.EINVAL),
]


@pytest.mark.parametrize(("what", "operation", "code"), REFUSED, ids=[row[0] for row in REFUSED])
def test_refused(guest: Guest, what: str, operation: Operation, code: int) -> None:
    events = guest.events
    events.alloc_unbound(0)
    events.alloc_unbound(DOMID_GUEST)
    events.bind_ipi(2)
    events.bind_virq(Virq.TIMER, 1)
    events.bind_virq(Virq.CONSOLE, 0)
    events.close(events.bind_ipi(0))
    assert events.open_backend() == 6
    events.open_backend()
    events.close(6)
    before = [(port.number, port.status, port.vcpu, port.target) for port in events.ports()]
    with pytest.raises(HypercallError) as raised:
        operation(events)
    assert raised.value.errno == code
    assert [(p.number, p.status, p.vcpu, p.target) for p in events.ports()] == before
    assert guest.pending() == set()


def test_a_send_to_a_backend_runs_its_callback(guest: Guest) -> None:
    rung: list[str] = []
    port = guest.events.open_backend()
    guest.events.serve(port, lambda: rung.append("console"))
    guest.events.send(port)
    assert rung == ["console"]
    assert guest.pending() == set()


def test_a_backends_notification_reaches_vcpu_0(guest: Guest) -> None:
    port = guest.events.open_backend()
    guest.events.notify(port)
    assert guest.upcall(0) == (1, 1)
    assert guest.kicked == [0]
    assert guest.take(0) == {port}


def test_a_pending_port_is_not_news(guest: Guest) -> None:
    port = guest.events.open_backend()
    guest.events.notify(port)
    guest.events.notify(port)
    assert guest.kicked == [0]
    assert guest.events.delivered == 1


def test_two_levels(guest: Guest) -> None:
    ports = [guest.events.bind_ipi(1) for _ in range(130)]
    for port in (ports[0], ports[70], ports[129]):
        guest.events.send(port)
    assert guest.upcall(1) == (1, 0b111)
    assert guest.upcall(0) == (0, 0)
    assert guest.take(1) == {ports[0], ports[70], ports[129]}


def test_all_channels_and_no_more(guest: Guest) -> None:
    for number in range(1, EVTCHN_2L_NR_CHANNELS):
        assert guest.events.bind_ipi(0) == number
    with pytest.raises(HypercallError) as raised:
        guest.events.bind_ipi(0)
    assert raised.value.errno == errno.ENOSPC
    guest.events.send(EVTCHN_2L_NR_CHANNELS - 1)
    assert guest.upcall(0) == (1, 1 << 63)


def test_a_masked_port_waits_for_unmask(guest: Guest) -> None:
    port = guest.events.bind_ipi(2)
    guest.mask(port)
    guest.events.send(port)
    assert guest.upcall(2) == (0, 0)
    # It may still be polled.
    assert guest.kicked == [2]
    assert guest.events.is_pending(port)
    guest.events.unmask(port)
    assert guest.upcall(2) == (1, 1)
    assert guest.take(2) == {port}


def test_unmask_without_a_pending_event_is_silent(guest: Guest) -> None:
    port = guest.events.bind_ipi(0)
    guest.mask(port)
    guest.events.unmask(port)
    guest.events.unmask(port)
    assert guest.upcall(0) == (0, 0)
    assert guest.kicked == []


def test_unmask_of_what_was_not_masked_does_not_deliver_again(guest: Guest) -> None:
    port = guest.events.bind_ipi(0)
    guest.events.send(port)
    guest.memory.write_u64(guest.info(0) + VCPU_INFO_PENDING_SEL, 0)
    guest.memory.write_u8(guest.info(0) + VCPU_INFO_UPCALL_PENDING, 0)
    guest.events.unmask(port)
    assert guest.upcall(0) == (0, 0)


def test_a_virq_is_raised_where_it_is_bound(guest: Guest) -> None:
    guest.events.raise_virq(Virq.TIMER, 0)
    assert guest.pending() == set()
    port = guest.events.bind_virq(Virq.TIMER, 1)
    assert guest.events.has_virq(Virq.TIMER, 1)
    assert not guest.events.has_virq(Virq.TIMER, 0)
    guest.events.raise_virq(Virq.TIMER, 0)
    guest.events.raise_virq(Virq.TIMER, 1)
    assert guest.take(1) == {port}


def test_a_virq_can_be_bound_again_after_close(guest: Guest) -> None:
    port = guest.events.bind_virq(Virq.DEBUG, 0)
    guest.events.close(port)
    assert not guest.events.has_virq(Virq.DEBUG, 0)
    assert guest.events.bind_virq(Virq.DEBUG, 0) == port


def test_a_global_virq_moves_and_closes(guest: Guest) -> None:
    port = guest.events.bind_virq(Virq.CONSOLE, 0)
    guest.events.bind_vcpu(port, 2)
    guest.events.raise_virq(Virq.CONSOLE, 0)
    assert guest.take(2) == {port}
    guest.events.close(port)
    assert not guest.events.has_virq(Virq.CONSOLE, 0)


def test_a_loop_of_the_domains_own(guest: Guest) -> None:
    listener = guest.events.alloc_unbound(DOMID_GUEST)
    guest.events.send(listener)
    assert guest.pending() == set()
    other = guest.events.bind_interdomain(listener)
    # Earlier events may be lost, so the new end is always pending.
    assert guest.take(0) == {other}
    guest.events.bind_vcpu(other, 1)
    guest.events.send(listener)
    assert guest.take(1) == {other}
    guest.events.send(other)
    assert guest.take(0) == {listener}


def test_a_loops_other_end_waits_again_after_close(guest: Guest) -> None:
    listener = guest.events.alloc_unbound(DOMID_GUEST)
    other = guest.events.bind_interdomain(listener)
    guest.events.close(other)
    assert guest.events.port(listener).status is Status.UNBOUND
    assert guest.events.bind_interdomain(listener) == other


def test_a_backend_connects_to_a_port_for_dom0(guest: Guest) -> None:
    rung: list[int] = []
    port = guest.events.alloc_unbound(0)
    guest.events.send(port)
    guest.events.connect_backend(port, lambda: rung.append(port))
    guest.events.send(port)
    assert rung == [port]
    guest.events.close(port)
    guest.events.notify(port)
    assert guest.pending() == set()


def test_a_closed_ports_event_is_forgotten(guest: Guest) -> None:
    port = guest.events.bind_ipi(0)
    guest.events.send(port)
    guest.events.close(port)
    assert guest.pending() == set()
    assert guest.events.bind_ipi(1) == port
    assert guest.events.port(port).vcpu == 1


def test_reset_closes_all(guest: Guest) -> None:
    listener = guest.events.alloc_unbound(DOMID_GUEST)
    guest.events.bind_interdomain(listener)
    guest.events.bind_virq(Virq.TIMER, 0)
    guest.events.bind_ipi(0)
    guest.events.open_backend()
    guest.events.reset()
    assert list(guest.events.ports()) == []
    assert guest.events.bind_virq(Virq.TIMER, 0) == 1


def test_reselect_shows_every_port(guest: Guest) -> None:
    guest.events.reselect(1)
    assert guest.upcall(1) == (1, (1 << 64) - 1)
    assert guest.kicked == [1]


def test_golden_shared_info(guest: Guest) -> None:
    for _ in range(65):
        guest.events.bind_ipi(0)
    guest.events.send(65)
    shared = guest.memory.read(SHARED_INFO, 0x1000)
    expected = bytearray(0x1000)
    expected[0] = 1
    struct.pack_into("<Q", expected, 8, 1 << 1)
    struct.pack_into("<Q", expected, 2048 + 8, 1 << 1)
    assert shared == bytes(expected)


@given(
    st.lists(
        st.tuples(st.sampled_from(["mask", "unmask", "send", "take"]), st.integers(1, 4)),
        max_size=40,
    )
)
def test_no_event_is_lost(steps: list[tuple[str, int]]) -> None:
    guest = Guest()
    events = guest.events
    for _ in range(4):
        events.bind_ipi(1)
    sent: set[int] = set()
    masked: set[int] = set()
    for step, port in steps:
        match step:
            case "mask":
                guest.mask(port)
                masked.add(port)
            case "unmask":
                events.unmask(port)
                masked.discard(port)
            case "send":
                events.send(port)
                sent.add(port)
            case "take":
                pending, _ = guest.upcall(1)
                found = guest.take(1)
                assert found == sent - masked
                assert pending or not found
                sent -= found
    for port in sorted(masked):
        events.unmask(port)
    assert bool(sent) <= bool(guest.upcall(1)[0])
    assert guest.take(1) == sent


def test_upcall_mask_is_the_guests(guest: Guest) -> None:
    guest.memory.write_u8(guest.info(0) + VCPU_INFO_UPCALL_MASK, 1)
    guest.events.notify(guest.events.open_backend())
    assert guest.memory.read(guest.info(0) + VCPU_INFO_UPCALL_MASK, 1)[0] == 1


@pytest.mark.parametrize("end", ["backend", "guest", "reset"])
def test_an_eventfd_is_listened_to_while_both_ends_are_there(guest: Guest, end: str) -> None:
    number = guest.events.alloc_unbound(0)
    backend = guest.events.connect_backend(number, lambda: None, 7)
    assert guest.listened == [(number, 7, True)]
    if end == "guest":
        guest.events.close(number)
    elif end == "reset":
        guest.events.reset()
    backend.close()
    backend.close()
    assert guest.listened == [(number, 7, True), (number, 7, False)]


@pytest.mark.parametrize("end", ["close", "reset"])
def test_the_dispatcher_knows_an_ipi_while_it_is_bound(guest: Guest, end: str) -> None:
    guest.events.alloc_unbound(DOMID_GUEST)
    number = guest.events.bind_ipi(2)
    assert guest.ipis == [(number, 2)]
    if end == "close":
        guest.events.close(number)
    guest.events.reset()
    assert guest.ipis == [(number, 2), (number, None)]


def test_a_backend_without_an_eventfd_is_called(guest: Guest) -> None:
    called: list[None] = []
    number = guest.events.alloc_unbound(0)
    guest.events.connect_backend(number, lambda: called.append(None)).close()
    guest.events.connect_backend(number, lambda: called.append(None))
    guest.events.send(number)
    assert called == [None]
    assert guest.listened == []
