"""A domain of another process, by its control socket."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

from kvmxen.config import DiskSpec
from kvmxen.config.net import NetSpec
from kvmxen.control import requests
from kvmxen.control.client import ask
from kvmxen.control.requests import Request
from kvmxen.domain.ending import Ending
from kvmxen.domain.state import State
from kvmxen.errors import KvmxenError
from kvmxen.machine import End
from kvmxen.rundir import runtime_root

# A process whose guest has ended has to close its devices.
_CLOSING_S = 60.0
_LOOK_EVERY_S = 0.01


def connect(name: str) -> RemoteDomain:
    """The domain of that name that another process of this user runs; KvmxenError if none does."""
    return RemoteDomain(name)


class RemoteDomain:
    """What Domain is, of another process: its methods are the same and do the same there.

    Each raises KvmxenError if the domain has ended.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._root = runtime_root()
        self.uuid = UUID(self._ask(requests.Describe())["uuid"])

    def _ask(self, request: Request) -> Any:
        return ask(self._root, self.name, request)

    @property
    def state(self) -> State:
        """What it does at the moment."""
        return State(self._ask(requests.Describe())["state"])

    @property
    def console_path(self) -> str:
        """The terminal at which the console can be opened, empty if there is none."""
        return str(self._ask(requests.Describe())["console"])

    def start(self) -> None:
        """Have the guest run, from its first instruction."""
        self._ask(requests.Start())

    def pause(self) -> None:
        """Stop every vCPU where it is; time goes on. Returns when none is in the guest."""
        self._ask(requests.Pause())

    def unpause(self) -> None:
        """Undo pause."""
        self._ask(requests.Unpause())

    def shutdown(self) -> bool:
        """Ask the guest to power off: whether there is one to ask. It may take its time."""
        return bool(self._ask(requests.Shutdown()))

    def reboot(self) -> bool:
        """Ask the guest to reboot, as shutdown() asks."""
        return bool(self._ask(requests.Reboot()))

    def destroy(self) -> None:
        """End the guest where it is; does not wait."""
        self._ask(requests.Destroy())

    def wait(self, timeout: float | None = None) -> Ending | None:
        """Wait until it has ended, and its name is free: how, or None if that takes longer than
        `timeout` seconds."""
        told = self._ask(requests.Wait(timeout))
        if told is None:
            return None
        end = time.monotonic() + _CLOSING_S
        while (self._root / self.name).exists():
            if time.monotonic() > end:
                raise KvmxenError(
                    f"the domain {self.name} has ended, but its process has not exited"
                )
            time.sleep(_LOOK_EVERY_S)
        return Ending(End[told["end"]], told["at"], told["reason"], told["report"])

    def stats(self) -> dict[str, object]:
        """What the run in progress did, or the last: counts, times in ns, sizes in KiB."""
        figures: dict[str, object] = self._ask(requests.Stats())
        return figures

    def attach_disk(self, spec: DiskSpec) -> str:
        """Give the guest one more disk: its name in the guest."""
        return str(self._ask(requests.BlockAttach(spec)))

    def detach_disk(self, device: str, *, force: bool = False) -> bool:
        """Take the disk `device`, as xvdb: whether the guest has given it up in ten seconds.

        With `force` it is not asked.
        """
        return bool(self._ask(requests.BlockDetach(device, force)))

    def resize_disk(self, device: str) -> None:
        """Show the guest the size that the file of the disk `device` has now."""
        self._ask(requests.BlockResize(device))

    def attach_net(self, spec: NetSpec) -> int:
        """Give the guest one more network interface: its number."""
        return int(self._ask(requests.NetworkAttach(spec)))

    def detach_net(self, number: int, *, force: bool = False) -> bool:
        """Take the network interface `number`, as detach_disk takes a disk."""
        return bool(self._ask(requests.NetworkDetach(number, force)))

    def device_figures(self) -> dict[str, dict[str, int]]:
        """What each device has done so far, by its kind and number, as "vbd/51712"."""
        figures: dict[str, dict[str, int]] = self._ask(requests.Figures())
        return figures
