"""A domain without a virtual machine, for a backend and an in-process frontend."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import count

from kvmxen.backends.peer import Peer
from kvmxen.kvm.layout import PAGE_SHIFT
from kvmxen.kvm.memory import GuestMemory
from kvmxen.pv.shim.plan import plan
from kvmxen.xen.abi.grant_table import PERMIT_ACCESS, READONLY
from kvmxen.xen.abi.xen import DOMID_GUEST, SHARED_INFO_EVTCHN_PENDING
from kvmxen.xen.abi.xenbus import XenbusState
from kvmxen.xen.events import EventChannels
from kvmxen.xen.grants import GrantTable
from kvmxen.xenstore.errors import XenstoreError
from kvmxen.xenstore.permissions import DOM0, READ, Permission
from kvmxen.xenstore.store import Store

# The machine may be busy: moments of work get minutes.
PATIENCE = 120.0


class FakeDomain:
    """A domain of `memory` bytes; `guest` is the part that its backends use."""

    def __init__(self, memory: int = 16 << 20) -> None:
        self.layout = plan(memory, 1)
        self.memory = GuestMemory(self.layout.end)
        self.grants = GrantTable(self.memory, self.layout)
        self.shared_info = self.layout.shared_info_mfn << PAGE_SHIFT
        self.woken = threading.Event()
        self.events = EventChannels(
            self.memory,
            self.shared_info,
            1,
            lambda _vcpu: self.shared_info,
            lambda _vcpu: self.woken.set(),
        )
        self.store = Store()
        self.store.mkdir(f"/local/domain/{DOMID_GUEST}")
        self.store.set_permissions(
            f"/local/domain/{DOMID_GUEST}", Permission(DOM0), Permission(DOMID_GUEST, READ)
        )
        self.failures: list[BaseException] = []
        self.peer = Peer(self.memory, self.grants, self.events, self.store, self.failures.append)
        self.grants.grow(64)
        self._pages = iter(range(64, self.layout.nr_pages))
        self._refs = count(8)
        # None of these equals a page's reference with one byte changed.
        self._ring_refs = count(0x5500)

    # Memory and grants as a guest's kernel uses them.

    def page(self) -> int:
        """A fresh page's gpa."""
        return self.layout.mfn(next(self._pages)) << PAGE_SHIFT

    def grant(self, gpa: int, *, flags: int = PERMIT_ACCESS, ref: int | None = None) -> int:
        """Grant the page at `gpa` to dom0; return the reference."""
        ref = next(self._refs) if ref is None else ref
        entry = (self.layout.xenheap_mfn + 1 << PAGE_SHIFT) + ref * 8
        self.memory.write_u64(entry, gpa >> PAGE_SHIFT << 32 | flags)
        return ref

    def grant_ring(self, gpa: int) -> int:
        """The same for a page of a ring."""
        return self.grant(gpa, ref=next(self._ring_refs))

    def grant_readonly(self, gpa: int) -> int:
        """Grant a page for reading only."""
        return self.grant(gpa, flags=PERMIT_ACCESS | READONLY)

    def is_pending(self, port: int) -> bool:
        """Whether `port` has a pending event; clears it."""
        return self.memory.clear_bit(self.shared_info + SHARED_INFO_EVTCHN_PENDING, port)

    # The store.

    def read(self, path: str) -> str | None:
        """The value at `path`, or None."""
        try:
            return self.store.read(path).decode()
        except XenstoreError:
            return None

    def state(self, path: str) -> XenbusState:
        """The xenbus state of the device whose directory is `path`."""
        return XenbusState(int(self.read(f"{path}/state") or 0))

    def set(self, path: str, value: object) -> None:
        """Write a node."""
        self.store.write(path, str(value).encode())


def wait_until(what: Callable[[], bool]) -> None:
    """Wait for a condition that another thread fulfils."""
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.001)
