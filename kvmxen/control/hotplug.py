"""Devices that come and go while the domain runs: what the control socket's commands do."""

from __future__ import annotations

from kvmxen.backends.devices import block_device, net_device
from kvmxen.backends.guest import Guest
from kvmxen.backends.xenbus import Device, Xenbus
from kvmxen.config import Config, DiskSpec
from kvmxen.config.disk import device_number, with_targets
from kvmxen.config.net import NetSpec
from kvmxen.control.server import Commands
from kvmxen.errors import UsageError

# A guest's driver lets go at once, or when nobody uses the device any more.
DETACH_S = 10.0
FORCE = "force"


class Hotplug:
    """The devices of one run of a domain; `config` is what it was started with."""

    def __init__(self, guest: Guest, bus: Xenbus, config: Config) -> None:
        self._guest = guest
        self._bus = bus
        self._config = config

    def start(self) -> None:
        """Attach what the domain starts with; raises KvmxenError."""
        for disk in self._config.disks:
            self._attach(block_device(self._guest, disk))
        for index, net in enumerate(self._config.nets):
            self._attach_net(index, net)

    def commands(self) -> Commands:
        """What may be asked for, by name."""
        return {
            "block-attach": self.attach_disk,
            "block-detach": self.detach_disk,
            "network-attach": self.attach_net,
            "network-detach": self.detach_net,
            "figures": self._bus.figures,
        }

    def attach_disk(self, text: str) -> str:
        """Attach a disk as --disk has it: its name in the guest."""
        (disk,) = with_targets([DiskSpec.parse(text)], self._bus.numbers("vbd"))
        self._attach(block_device(self._guest, disk))
        return disk.target

    def detach_disk(self, name: str, how: str = "") -> bool:
        """Have the guest let go of xvdb, say; whether it has. With FORCE it is not asked."""
        return self._detach("vbd", device_number(name), how)

    def attach_net(self, text: str) -> int:
        """Attach an interface as --net has it: its number."""
        spec = NetSpec.parse(text)
        if spec is None:
            raise UsageError("there is nothing to attach: give user or tap")
        taken = self._bus.numbers("vif")
        index = next(n for n in range(len(taken) + 1) if n not in taken)
        self._attach_net(index, spec)
        return index

    def detach_net(self, number: str, how: str = "") -> bool:
        """The same as detach_disk, for the interface of that number."""
        if not number.isascii() or not number.isdecimal() or len(number) > 5:
            raise UsageError(f"{number!r} is no interface's number: give 0 for the first")
        return self._detach("vif", int(number), how)

    def _attach_net(self, index: int, spec: NetSpec) -> None:
        config = self._config
        self._attach(net_device(self._guest, index, spec, domain=config.name, vcpus=config.vcpus))

    def _attach(self, device: Device) -> None:
        try:
            self._bus.attach(device)
        except BaseException:
            device.close()
            raise

    def _detach(self, kind: str, index: int, how: str) -> bool:
        if how == FORCE:
            self._bus.remove(kind, index)
            return True
        return self._bus.detach(kind, index, DETACH_S)
