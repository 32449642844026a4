"""Performs each request on a domain."""

from __future__ import annotations

import socket
from typing import Any, Protocol, assert_never

from kvmxen.config import DiskSpec
from kvmxen.config.codec import encode
from kvmxen.config.net import NetSpec
from kvmxen.domain.control import requests as ask
from kvmxen.domain.control.requests import Request
from kvmxen.domain.description import Description


class Devices(Protocol):
    """The part of a domain that manages devices."""

    def attach_disk(self, spec: DiskSpec) -> str: ...
    def detach_disk(self, device: str, *, force: bool = False) -> bool: ...
    def resize_disk(self, device: str) -> None: ...
    def attach_net(self, spec: NetSpec) -> int: ...
    def detach_net(self, number: int, *, force: bool = False) -> bool: ...
    def device_figures(self) -> dict[str, dict[str, int]]: ...


class Target(Devices, Protocol):
    """The part of a domain that its clients may use; stats() and wait_for_clients() return JSON
    values."""

    def start(self, *, paused: bool = False) -> None: ...
    def pause(self) -> None: ...
    def unpause(self) -> None: ...
    def shutdown(self) -> bool: ...
    def reboot(self) -> bool: ...
    def destroy(self) -> None: ...
    def sysrq(self, key: str) -> None: ...
    def nmi(self) -> None: ...
    def stats(self) -> dict[str, object]: ...
    def describe(self) -> Description: ...
    def attach_console(self, connected: socket.socket, *, writes: bool, force: bool) -> bool: ...
    def attach_feed(self, connected: socket.socket) -> None: ...
    def wait_for_clients(self, timeout: float) -> dict[str, Any] | None: ...


def perform(target: Target, request: Request, sockets: list[socket.socket]) -> object:
    """Perform a client's request; returns the answer as a JSON value; raises KvmxenError.

    What it keeps of the `sockets` that came along, it takes off the list.
    """
    match request:
        case ask.Start(paused):
            target.start(paused=paused)
        case ask.Pause():
            target.pause()
        case ask.Unpause():
            target.unpause()
        case ask.Destroy():
            target.destroy()
        case ask.Sysrq(key):
            target.sysrq(key)
        case ask.Nmi():
            target.nmi()
        case ask.Shutdown():
            return target.shutdown()
        case ask.Reboot():
            return target.reboot()
        case ask.Wait(seconds):
            return target.wait_for_clients(seconds)
        case ask.Describe():
            return encode(target.describe())
        case ask.Console(writes, force):
            return target.attach_console(sockets.pop(), writes=writes, force=force)
        case ask.Events():
            target.attach_feed(sockets.pop())
        case ask.Stats():
            return target.stats()
        case _:
            return perform_on_devices(target, request)
    return None


DeviceRequest = (
    ask.BlockAttach
    | ask.BlockDetach
    | ask.BlockResize
    | ask.NetworkAttach
    | ask.NetworkDetach
    | ask.Figures
)


def perform_on_devices(target: Devices, request: DeviceRequest) -> object:
    """The part of `perform` for devices."""
    match request:
        case ask.BlockAttach(disk):
            return target.attach_disk(disk)
        case ask.BlockDetach(device, force):
            return target.detach_disk(device, force=force)
        case ask.BlockResize(device):
            target.resize_disk(device)
            return None
        case ask.NetworkAttach(net):
            return target.attach_net(net)
        case ask.NetworkDetach(number, force):
            return target.detach_net(number, force=force)
        case ask.Figures():
            return target.device_figures()
    assert_never(request)
