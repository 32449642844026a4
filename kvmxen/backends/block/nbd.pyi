from collections.abc import Callable

from kvmxen.backends.block.engine import Engine

class NbdEngine(Engine):
    def __init__(self, fd: int, doorbell: int, released: Callable[[bool], None]) -> None: ...
