"""The devices of one run of a domain: those that it starts with, and those that come and go."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from kvmxen.backends.devices import block_device, net_device
from kvmxen.backends.peer import Peer
from kvmxen.backends.xenbus import Device, NoSuchDevice, Xenbus
from kvmxen.config import Config, DiskSpec
from kvmxen.config.disk import device_number, with_targets
from kvmxen.config.net import NetSpec
from kvmxen.errors import KvmxenError

# A guest's driver gives a device up at once, or when nobody uses it any more.
DETACH_S = 10.0


class Devices:
    """The disks and network interfaces on `bus`; `config` is what the domain was started with.

    Any thread may call it. Every method raises KvmxenError for what cannot be.
    """

    def __init__(self, peer: Peer, bus: Xenbus, config: Config) -> None:
        self._peer = peer
        self._bus = bus
        self._config = config
        # From the choice of a device's number until the bus has the device.
        self._attaching = threading.Lock()

    def attach_first(self) -> None:
        """Attach what the domain starts with."""
        for disk in self._config.disks:
            self._attach(block_device(self._peer, disk))
        for index, net in enumerate(self._config.nets):
            self._attach_net(index, net)

    def attach_disk(self, spec: DiskSpec) -> str:
        """Give the guest one more disk: its name in the guest, the first free one by default."""
        with self._attaching:
            (disk,) = with_targets([spec], self._bus.numbers("vbd"))
            self._attach(block_device(self._peer, disk))
        return disk.target

    def detach_disk(self, device: str, *, force: bool = False) -> bool:
        """Take the disk `device` (xvdb, say): whether the guest has given it up in time.

        A guest that still uses it gives it up later. With `force` it is not asked.
        """
        return self._detach("vbd", device_number(device), f"disk {device}", force)

    def resize_disk(self, device: str) -> None:
        """Show the guest the size that the file of the disk `device` has now."""
        with _named(f"disk {device}"):
            self._bus.refresh("vbd", device_number(device))

    def attach_net(self, spec: NetSpec) -> int:
        """Give the guest one more network interface: its number."""
        with self._attaching:
            taken = self._bus.numbers("vif")
            index = next(n for n in range(len(taken) + 1) if n not in taken)
            self._attach_net(index, spec)
        return index

    def detach_net(self, number: int, *, force: bool = False) -> bool:
        """Take the network interface `number`, as detach_disk takes a disk."""
        return self._detach("vif", number, f"network interface {number}", force)

    def device_figures(self) -> dict[str, dict[str, int]]:
        """What each device has done so far, by its kind and number, as "vbd/51712"."""
        return self._bus.figures()

    def _attach_net(self, index: int, spec: NetSpec) -> None:
        config = self._config
        self._attach(net_device(self._peer, index, spec, domain=config.name, vcpus=config.vcpus))

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
