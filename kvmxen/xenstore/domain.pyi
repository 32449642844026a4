from kvmxen.xen.abi.xs_wire import Feature
from kvmxen.xenstore.permissions import Permissions
from kvmxen.xenstore.quota import Quota

FEATURES: Feature

class Domain:
    quota: Quota
    introduced: bool
    shutdown: bool
    features: int
    target: Domain | None
    nodes: int
    watches: int
    transactions: int
    memory: int
    def __init__(
        self, domid: int, quota: Quota | None = None, guests_peaks: dict[str, int] | None = None
    ) -> None: ...
    @property
    def domid(self) -> int: ...
    @property
    def peaks(self) -> dict[str, int]: ...
    def allows(self, what: str, amount: int) -> bool: ...
    def note(self, what: str, amount: int) -> None: ...
    def rights(self, permissions: Permissions) -> int: ...
