from kvmxen.backends.block.engine import Engine

class PoolEngine(Engine):
    def __init__(self, fd: int, doorbell: int, threads: int) -> None: ...
