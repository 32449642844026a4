from collections.abc import Callable

from kvmxen.backends.block.engine import Engine
from kvmxen.ring.shared_ring import BackRing
from kvmxen.xen.grants import GrantTable

MAX_INDIRECT_SEGMENTS: int

class BlockQueue:
    def __init__(
        self,
        ring: BackRing,
        grants: GrantTable,
        engine: Engine,
        notify: Callable[[], None],
        failed: Callable[[BaseException], None],
        *,
        sectors: int,
        sector_size: int,
        readonly: bool,
        discard: bool,
        flush: bool,
        persistent: bool,
    ) -> None: ...
    def serve(self) -> None: ...
    def stop(self) -> None: ...
    def grow(self, sectors: int) -> None: ...
    def close(self) -> None: ...
    @property
    def broken(self) -> bool: ...
    def figures(self) -> dict[str, int]: ...

def layouts() -> dict[str, tuple[int, dict[str, int]]]: ...
