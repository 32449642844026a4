"""The part of a domain that its backends use; tests provide it without a virtual machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kvmxen.kvm.memory import GuestMemory
from kvmxen.xen.abi.xen import DOMID_GUEST
from kvmxen.xen.events import EventChannels
from kvmxen.xen.grants import GrantTable
from kvmxen.xenstore.store import Store


@dataclass(frozen=True)
class Peer:
    """A domain as its backends see it; `fail(error)` receives our own errors."""

    memory: GuestMemory
    grants: GrantTable
    events: EventChannels
    store: Store
    fail: Callable[[BaseException], None]
    domid: int = DOMID_GUEST
