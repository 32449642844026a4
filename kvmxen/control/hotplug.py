"""Devices that come and go while the domain runs: what the control socket's requests do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import assert_never

from kvmxen.backends.devices import block_device, net_device
from kvmxen.backends.guest import Guest
from kvmxen.backends.xenbus import Device, NoSuchDevice, Xenbus
from kvmxen.config import Config, DiskSpec
from kvmxen.config.disk import device_number, with_targets
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
from kvmxen.errors import KvmxenError

# A guest's driver gives a device up at once, or when nobody uses it any more.
DETACH_S = 10.0


class Hotplug:
    """The devices of one run of a domain; `config` is what it was started with."""

    def __init__(self, guest: Guest, bus: Xenbus, config: Config) -> None:
        self._guest = guest
        self._bus = bus
        self._config = config
        # From the choice of a device's number until the bus has the device.
        self._attaching = threading.Lock()

    def start(self) -> None:
        """Attach what the domain starts with; raises KvmxenError."""
        for disk in self._config.disks:
            self._attach(block_device(self._guest, disk))
        for index, net in enumerate(self._config.nets):
            self._attach_net(index, net)

    def do(self, request: Request) -> object:
        """Do what a client asks for: the answer, as JSON has it; raises KvmxenError."""
        match request:
            case BlockAttach(disk):
                return self._add_disk(disk)
            case BlockDetach(device, force):
                return self._detach("vbd", device_number(device), f"disk {device}", force)
            case BlockResize(device):
                with _named(f"disk {device}"):
                    self._bus.refresh("vbd", device_number(device))
                return None
            case NetworkAttach(net):
                return self._add_net(net)
            case NetworkDetach(number, force):
                return self._detach("vif", number, f"network interface {number}", force)
            case Figures():
                return self._bus.figures()
        assert_never(request)

    def _add_disk(self, spec: DiskSpec) -> str:
        with self._attaching:
            (disk,) = with_targets([spec], self._bus.numbers("vbd"))
            self._attach(block_device(self._guest, disk))
        return disk.target

    def _add_net(self, spec: NetSpec) -> int:
        with self._attaching:
            taken = self._bus.numbers("vif")
            index = next(n for n in range(len(taken) + 1) if n not in taken)
            self._attach_net(index, spec)
        return index

    def _attach_net(self, index: int, spec: NetSpec) -> None:
        config = self._config
        self._attach(net_device(self._guest, index, spec, domain=config.name, vcpus=config.vcpus))

    def _attach(self, device: Device) -> None:
        try:
            self._bus.attach(device)
        except KvmxenError:
            device.close()
            raise

    def _detach(self, kind: str, index: int, what: str, force: bool) -> bool:
        with _named(what):
            if force:
                self._bus.remove(kind, index)
                return True
            return self._bus.detach(kind, index, DETACH_S)


@contextmanager
def _named(what: str) -> Iterator[None]:
    """That there is no such device is told by the name that a person knows it by."""
    try:
        yield
    except NoSuchDevice:
        raise KvmxenError(f"the guest has no {what}") from None
