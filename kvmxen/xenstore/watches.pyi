from collections.abc import Callable
from enum import Enum

from kvmxen.xenstore.domain import Domain

UNLIMITED: int

class Match(Enum):
    EXACT = 1
    SUBTREE = 2
    NAMED = 3
    ANONYMOUS = 4

class Watch:
    def __init__(
        self,
        path: str,
        token: bytes,
        domain: Domain,
        deliver: Callable[[Watch, str], None],
        depth: int = -1,
        prefix: int = 0,
    ) -> None: ...
    @property
    def path(self) -> str: ...
    @property
    def token(self) -> bytes: ...
    @property
    def domain(self) -> Domain: ...
    @property
    def deliver(self) -> Callable[[Watch, str], None]: ...
    @property
    def depth(self) -> int: ...
    @property
    def prefix(self) -> int: ...
    @property
    def serial(self) -> int: ...

class Watches:
    def __init__(self) -> None: ...
    def add(self, watch: Watch) -> None: ...
    def remove(self, watch: Watch) -> None: ...
    def matching(self, path: str, match: Match) -> list[Watch]: ...
