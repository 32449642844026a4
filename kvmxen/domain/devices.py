"""The devices of one run of a domain, including those attached and detached while it runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kvmxen.backends.devices import block_device, net_device
from kvmxen.backends.peer import Peer
from kvmxen.backends.xenbus import Device, NoSuchDevice, Xenbus
from kvmxen.config import Config, DiskSpec
from kvmxen.config.disk import device_number, with_targets
from kvmxen.config.net import NetSpec
from kvmxen.errors import KvmxenError

if TYPE_CHECKING:
    from kvmxen.domain.description import Interface

# How long a detach waits, in s. A guest's driver gives up an unused device at once.
DETACH_S = 10.0


class Devices:
    """The disks and network interfaces on `bus`; `config` is the domain's first configuration.

    Any thread may call it. Every method raises KvmxenError on failure.
    """

    def __init__(self, peer: Peer, bus: Xenbus, config: Config) -> None:
        self._peer = peer
        self._bus = bus
        self._config = config
        self._specs: dict[tuple[str, int], DiskSpec | NetSpec] = {}
        # Held from the choice of a device's number until the bus has the device.
        self._attaching = threading.Lock()

    def attach_first(self) -> None:
        """Attach the devices that the domain starts with."""
        for disk in self._config.disks:
            self._attach_disk(disk)
        for index, net in enumerate(self._config.nets):
            self._attach_net(index, net)

    def attach_disk(self, spec: DiskSpec) -> str:
        """Attach a disk; returns its name in the guest, by default the first free one."""
        with self._attaching:
            (disk,) = with_targets([spec], self._bus.numbers("vbd"))
            self._attach_disk(disk)
        return disk.target

    def detach_disk(self, device: str, *, force: bool = False) -> bool:
        """Detach the disk `device` (such as xvdb); returns whether the guest gave it up in time.

        A guest that still uses it gives it up later. With `force` the guest is not asked.
        """
        return self._detach("vbd", device_number(device), f"disk {device}", force)

    def resize_disk(self, device: str) -> None:
        """Show the guest the current size of the file of the disk `device`."""
        with _named(f"disk {device}"):
            self._bus.refresh("vbd", device_number(device))

    def attach_net(self, spec: NetSpec) -> int:
        """Attach a network interface; returns its number."""
        with self._attaching:
            taken = self._bus.numbers("vif")
            index = next(n for n in range(len(taken) + 1) if n not in taken)
            self._attach_net(index, spec)
        return index

    def detach_net(self, number: int, *, force: bool = False) -> bool:
        """Detach the network interface `number`; see detach_disk."""
        return self._detach("vif", number, f"network interface {number}", force)

    def device_figures(self) -> dict[str, dict[str, int]]:
        """The counters of each device, by its kind and number, such as "vbd/51712"."""
        return self._bus.figures()

    def disks(self) -> tuple[DiskSpec, ...]:
        """The disks that the guest has."""
        return tuple(spec for _, spec in self._present("vbd") if isinstance(spec, DiskSpec))

    def interfaces(self) -> tuple[Interface, ...]:
        """The network interfaces that the guest has."""
        from kvmxen.domain.description import Interface

        return tuple(
            Interface(number, spec)
            for number, spec in self._present("vif")
            if isinstance(spec, NetSpec)
        )

    def _present(self, kind: str) -> Iterator[tuple[int, DiskSpec | NetSpec]]:
        for number in sorted(self._bus.numbers(kind)):
            if spec := self._specs.get((kind, number)):
                yield number, spec

    def _attach_disk(self, disk: DiskSpec) -> None:
        self._attach(block_device(self._peer, disk))
        self._specs["vbd", disk.number] = disk

    def _attach_net(self, index: int, spec: NetSpec) -> None:
        config = self._config
        self._specs["vif", index] = spec
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
    """Report a missing device by `what`, the name that the user knows."""
    try:
        yield
    except NoSuchDevice:
        raise KvmxenError(f"the guest has no {what}") from None
