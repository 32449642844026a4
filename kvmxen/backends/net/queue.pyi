from collections.abc import Callable

from kvmxen.ring.shared_ring import BackRing
from kvmxen.xen.grants import GrantTable

class MulticastFilter:
    enabled: bool
    @property
    def count(self) -> int: ...

class NetQueue:
    notify_tx: Callable[[], None]
    notify_rx: Callable[[], None]
    def __init__(
        self,
        grants: GrantTable,
        tx: BackRing,
        rx: BackRing,
        multicast: MulticastFilter,
        notify_tx: Callable[[], None],
        notify_rx: Callable[[], None],
    ) -> None: ...
