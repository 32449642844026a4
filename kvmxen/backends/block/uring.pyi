from kvmxen.backends.block.engine import Engine

class UringEngine(Engine):
    def __init__(self, fd: int, doorbell: int, depth: int) -> None: ...
