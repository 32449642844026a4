"""What a domain does for each request."""

from __future__ import annotations

from typing import Protocol, assert_never

from kvmxen.config import DiskSpec
from kvmxen.config.net import NetSpec
from kvmxen.control.requests import (
    BlockAttach,
    BlockDetach,
    BlockResize,
    Figures,
    NetworkAttach,
    NetworkDetach,
    Request,
)


class Target(Protocol):
    """The part of a domain that its clients may use."""

    def attach_disk(self, spec: DiskSpec) -> str: ...
    def detach_disk(self, device: str, *, force: bool = False) -> bool: ...
    def resize_disk(self, device: str) -> None: ...
    def attach_net(self, spec: NetSpec) -> int: ...
    def detach_net(self, number: int, *, force: bool = False) -> bool: ...
    def device_figures(self) -> dict[str, dict[str, int]]: ...


def perform(target: Target, request: Request) -> object:
    """Do what a client asks for: the answer, as JSON has it; raises KvmxenError."""
    match request:
        case BlockAttach(disk):
            return target.attach_disk(disk)
        case BlockDetach(device, force):
            return target.detach_disk(device, force=force)
        case BlockResize(device):
            target.resize_disk(device)
            return None
        case NetworkAttach(net):
            return target.attach_net(net)
        case NetworkDetach(number, force):
            return target.detach_net(number, force=force)
        case Figures():
            return target.device_figures()
    assert_never(request)
