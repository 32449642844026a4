"""Event channels, 2-level: ports, what they are bound to, and their bits in shared_info.

The bits are the guest's memory and are changed atomically; everything else is under one lock.
Source of the semantics: xen/common/event_channel.c and event_2l.c.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from heapq import heappop, heappush
from threading import RLock

from kvmxen.errors import HypercallError
from kvmxen.kvm.memory import GuestMemory
from kvmxen.xen.abi import xen
from kvmxen.xen.abi.xen import (
    DOMID_GUEST,
    EVTCHN_2L_NR_CHANNELS,
    NR_VIRQS,
    PER_VCPU_VIRQS,
    SHARED_INFO_EVTCHN_MASK,
    SHARED_INFO_EVTCHN_PENDING,
    VCPU_INFO_PENDING_SEL,
    VCPU_INFO_UPCALL_PENDING,
    Virq,
)


class Status(IntEnum):
    """EVTCHNSTAT_*: what a port is bound to."""

    CLOSED = xen.EVTCHNSTAT_closed
    UNBOUND = xen.EVTCHNSTAT_unbound
    INTERDOMAIN = xen.EVTCHNSTAT_interdomain
    PIRQ = xen.EVTCHNSTAT_pirq
    VIRQ = xen.EVTCHNSTAT_virq
    IPI = xen.EVTCHNSTAT_ipi


@dataclass
class Port:
    """One of the guest's ports. `target` is the virq, or the port at the other end."""

    number: int
    status: Status = Status.CLOSED
    vcpu: int = 0
    target: int = 0
    remote_domain: int = 0
    on_send: Callable[[], None] | None = None
    doorbell: int = -1
    xen: bool = False


class BackendPort:
    """A backend's end of the port `number`, which the guest allocated for dom0.

    Once the guest has closed its end, these methods do nothing, even if the guest reuses the
    number.
    """

    def __init__(self, events: EventChannels, number: int, on_send: Callable[[], None]) -> None:
        self.number = number
        self._events = events
        self._on_send = on_send

    def notify(self) -> None:
        """Send an event to the guest."""
        self._events.notify(self.number, self._on_send)

    def close(self) -> None:
        """Disconnect: the guest's end waits for dom0 again, as after its allocation."""
        self._events.disconnect_backend(self.number, self._on_send)


class EventChannels:
    """A domain's event channels. `shared_info` is a gpa; `info(vcpu)` gives a vcpu_info's gpa.

    `kick(vcpu)` is called, from any thread, when a vCPU must check its events.
    `bind_timer(vcpu, port)` is called when its VIRQ_TIMER is bound to a port, or unbound (0).
    `bind_ipi(port, vcpu)` is called when a port becomes that vCPU's IPI, or is none (None).
    `listen(port, eventfd, on)` asks that a send to the port rings a backend's eventfd without us
    or, if `on` is false, no longer does; it returns whether the send now rings it.
    """

    def __init__(
        self,
        memory: GuestMemory,
        shared_info: int,
        vcpus: int,
        info: Callable[[int], int],
        kick: Callable[[int], None],
        bind_timer: Callable[[int, int], None] = lambda _vcpu, _port: None,
        bind_ipi: Callable[[int, int | None], None] = lambda _port, _vcpu: None,
        listen: Callable[[int, int, bool], bool] = lambda _port, _eventfd, _on: False,
    ) -> None:
        self._memory = memory
        self._pending = shared_info + SHARED_INFO_EVTCHN_PENDING
        self._mask = shared_info + SHARED_INFO_EVTCHN_MASK
        self._vcpus = vcpus
        self._info = info
        self._kick = kick
        self._bind_timer = bind_timer
        self._bind_ipi = bind_ipi
        self._listen = listen
        self._lock = RLock()
        # Port 0 is never allocated, so 0 can mean none.
        self._ports: list[Port] = [Port(0, xen=True)]
        # A heap of the closed ports: the lowest is allocated first, as Xen does.
        self._closed: list[int] = []
        self._virqs: dict[tuple[int, int], Port] = {}
        self.sent = 0
        self.delivered = 0

    # Binding.

    def _allocate(self) -> Port:
        if self._closed:
            return self._ports[heappop(self._closed)]
        if len(self._ports) == EVTCHN_2L_NR_CHANNELS:
            raise HypercallError(errno.ENOSPC)
        port = Port(len(self._ports))
        self._ports.append(port)
        return port

    def _open(self, status: Status, vcpu: int = 0, target: int = 0) -> Port:
        port = self._allocate()
        port.status, port.vcpu, port.target = status, vcpu, target
        port.remote_domain, port.on_send = 0, None
        self._memory.clear_bit(self._pending, port.number)
        return port

    def _check_vcpu(self, vcpu: int) -> None:
        if not 0 <= vcpu < self._vcpus:
            raise HypercallError(errno.ENOENT)

    def port(self, number: int) -> Port:
        """The port `number`; raises HypercallError(EINVAL) if there is none."""
        if not 0 < number < len(self._ports):
            raise HypercallError(errno.EINVAL)
        return self._ports[number]

    def open_backend(self) -> int:
        """Allocate a guest port that is bound to one of our backends; see `serve`."""
        with self._lock:
            return self._open(Status.INTERDOMAIN).number

    def serve(self, number: int, on_send: Callable[[], None]) -> None:
        """Call `on_send`, in the sending vCPU's thread, each time the guest sends to `number`,
        which open_backend returned. Only before the guest starts."""
        self._ports[number].on_send = on_send

    def alloc_unbound(self, remote: int) -> int:
        """EVTCHNOP_alloc_unbound for domain `remote`."""
        with self._lock:
            port = self._open(Status.UNBOUND)
            port.remote_domain = remote
            return port.number

    def connect_backend(
        self, number: int, on_send: Callable[[], None], eventfd: int = -1
    ) -> BackendPort:
        """Bind a backend to the port that the guest allocated for dom0.

        Each time the guest sends, `on_send`, which must be unique to this port, runs in the
        sending vCPU's thread, or KVM writes to `eventfd`, if given, which must stay open until
        the port is closed. Raises HypercallError(EINVAL) if the port is not waiting for dom0.
        """
        with self._lock:
            port = self.port(number)
            if port.status is not Status.UNBOUND or port.remote_domain != 0:
                raise HypercallError(errno.EINVAL)
            port.status, port.on_send = Status.INTERDOMAIN, on_send
            if eventfd >= 0 and self._listen(number, eventfd, True):
                port.doorbell = eventfd
        return BackendPort(self, number, on_send)

    def disconnect_backend(self, number: int, on_send: Callable[[], None]) -> None:
        """Undo connect_backend; does nothing if the guest has closed the port."""
        with self._lock:
            port = self._ports[number]
            if port.on_send is on_send:
                self._stop_listening(port)
                port.status, port.on_send, port.remote_domain = Status.UNBOUND, None, 0

    def _stop_listening(self, port: Port) -> None:
        if port.doorbell >= 0:
            self._listen(port.number, port.doorbell, False)
            port.doorbell = -1

    def bind_interdomain(self, number: int) -> int:
        """EVTCHNOP_bind_interdomain to one of the domain's own ports (a loop)."""
        with self._lock:
            other = self.port(number)
            if other.status is not Status.UNBOUND or other.remote_domain != DOMID_GUEST:
                raise HypercallError(errno.EINVAL)
            port = self._open(Status.INTERDOMAIN, target=other.number)
            other.status, other.target = Status.INTERDOMAIN, port.number
            # An event sent before there was a listener would otherwise be lost.
            self.raise_port(port)
            return port.number

    def bind_virq(self, virq: int, vcpu: int) -> int:
        """EVTCHNOP_bind_virq; global virqs can only be bound on vCPU 0."""
        if not 0 <= virq < NR_VIRQS:
            raise HypercallError(errno.EINVAL)
        if virq not in PER_VCPU_VIRQS and vcpu != 0:
            raise HypercallError(errno.EINVAL)
        self._check_vcpu(vcpu)
        with self._lock:
            if (virq, vcpu) in self._virqs:
                raise HypercallError(errno.EEXIST)
            port = self._open(Status.VIRQ, vcpu, virq)
            self._virqs[virq, vcpu] = port
            if virq == Virq.TIMER:
                self._bind_timer(vcpu, port.number)
            return port.number

    def bind_ipi(self, vcpu: int) -> int:
        """EVTCHNOP_bind_ipi."""
        self._check_vcpu(vcpu)
        with self._lock:
            port = self._open(Status.IPI, vcpu)
            self._bind_ipi(port.number, vcpu)
            return port.number

    def bind_vcpu(self, number: int, vcpu: int) -> None:
        """EVTCHNOP_bind_vcpu: which vCPU the port notifies."""
        self._check_vcpu(vcpu)
        with self._lock:
            port = self.port(number)
            per_vcpu = port.status is Status.VIRQ and port.target in PER_VCPU_VIRQS
            if port.status in (Status.CLOSED, Status.IPI) or per_vcpu:
                raise HypercallError(errno.EINVAL)
            port.vcpu = vcpu

    def close(self, number: int) -> None:
        """EVTCHNOP_close; the other end, if it is the domain's own, waits for a new peer."""
        with self._lock:
            port = self.port(number)
            if port.status is Status.CLOSED:
                raise HypercallError(errno.EINVAL)
            if port.status is Status.VIRQ:
                # A global virq is filed under the vCPU that it was bound on.
                for key in [key for key, bound in self._virqs.items() if bound is port]:
                    del self._virqs[key]
                if port.target == Virq.TIMER:
                    self._bind_timer(port.vcpu, 0)
            if port.status is Status.INTERDOMAIN and port.target:
                other = self._ports[port.target]
                other.status, other.target = Status.UNBOUND, 0
                other.remote_domain = DOMID_GUEST
            if port.status is Status.IPI:
                self._bind_ipi(number, None)
            self._stop_listening(port)
            port.status, port.on_send, port.target = Status.CLOSED, None, 0
            heappush(self._closed, number)
            self._memory.clear_bit(self._pending, number)

    def reset(self) -> None:
        """EVTCHNOP_reset: close every port."""
        with self._lock:
            for port in self._ports[1:]:
                if port.status is not Status.CLOSED:
                    self.close(port.number)

    def ports(self) -> Iterator[Port]:
        """The ports in use."""
        return (port for port in list(self._ports) if port.status is not Status.CLOSED)

    # Sending.

    def send(self, number: int) -> int | None:
        """EVTCHNOP_send; returns the vCPU that it notifies, None for a backend or nobody."""
        port = self.port(number)
        self.sent += 1
        if port.status is Status.INTERDOMAIN:
            # Another vCPU may close the other end meanwhile.
            if target := port.target:
                port = self._ports[target]
                self.raise_port(port)
                return port.vcpu
            if on_send := port.on_send:
                on_send()
        elif port.status is Status.IPI:
            self.raise_port(port)
            return port.vcpu
        elif port.status is not Status.UNBOUND:
            raise HypercallError(errno.EINVAL)
        return None

    def notify(self, number: int, on_send: Callable[[], None] | None = None) -> None:
        """Send from a backend's end of port `number` to the guest; does nothing if the port is
        closed, or bound to a backend with another `on_send`."""
        port = self._ports[number]
        if port.status is Status.INTERDOMAIN and on_send in (None, port.on_send):
            self.raise_port(port)

    def raise_virq(self, virq: Virq, vcpu: int) -> None:
        """Raise `virq` on `vcpu`; does nothing if the guest has not bound it."""
        port = self._virqs.get((virq, vcpu))
        if port:
            self.raise_port(port)

    def has_virq(self, virq: Virq, vcpu: int) -> bool:
        """Whether the guest has bound `virq` on `vcpu`."""
        return (virq, vcpu) in self._virqs

    def raise_port(self, port: Port) -> None:
        """Make `port` pending, and make its vCPU look if the port was not pending before."""
        number = port.number
        if self._memory.set_bit(self._pending, number):
            return
        self.delivered += 1
        if not self._memory.test_bit(self._mask, number):
            self._select(port.vcpu, number)
        else:
            # A vCPU may poll a masked port.
            self._kick(port.vcpu)

    def _select(self, vcpu: int, number: int) -> None:
        info = self._info(vcpu)
        if not self._memory.set_bit(info + VCPU_INFO_PENDING_SEL, number >> 6):
            self._memory.write_u8(info + VCPU_INFO_UPCALL_PENDING, 1)
        self._kick(vcpu)

    def reselect(self, vcpu: int) -> None:
        """Make the guest check every port after its vcpu_info moved, so that no event is lost."""
        info = self._info(vcpu)
        self._memory.write_u64(info + VCPU_INFO_PENDING_SEL, (1 << 64) - 1)
        self._memory.write_u8(info + VCPU_INFO_UPCALL_PENDING, 1)
        self._kick(vcpu)

    def unmask(self, number: int) -> None:
        """EVTCHNOP_unmask; delivers an event that came while the port was masked."""
        port = self.port(number)
        masked = self._memory.clear_bit(self._mask, number)
        if masked and self._memory.test_bit(self._pending, number):
            self._select(port.vcpu, number)

    def is_pending(self, number: int) -> bool:
        """Whether port `number` has its pending bit set; raises EINVAL if there is no such port."""
        return self._memory.test_bit(self._pending, self.port(number).number)
