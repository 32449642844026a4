"""A domain of another process, used through its control socket."""

from __future__ import annotations

import math
import socket
import time
from typing import Any

from kvmxen.backends.terminal import ConsoleStream, stream_of
from kvmxen.config import DiskSpec
from kvmxen.config.codec import CodecError, decode
from kvmxen.config.net import NetSpec
from kvmxen.domain.control import requests
from kvmxen.domain.control.client import Gone, ask
from kvmxen.domain.control.requests import Request
from kvmxen.domain.description import Description
from kvmxen.domain.ending import Ending
from kvmxen.domain.events import EventStream
from kvmxen.domain.record import read_record
from kvmxen.domain.rundir import running, runtime_root
from kvmxen.domain.state import State
from kvmxen.errors import KvmxenError
from kvmxen.pv.machine import End

# How long, in s, a process whose guest has ended may take to close its devices.
_CLOSING_S = 60.0
_LOOK_EVERY_S = 0.01


def connect(name: str) -> RemoteDomain:
    """The domain `name` in another process of this user; raises KvmxenError if there is none."""
    return RemoteDomain(name)


class RemoteDomain:
    """A Domain in another process, with the same methods.

    Each raises KvmxenError if the domain has ended, or does not answer in `patience` seconds.
    """

    def __init__(self, name: str, *, patience: float | None = None) -> None:
        self.name = name
        self._patience = patience
        self._root = runtime_root()
        self._number: int | None = None
        told = self.describe()
        self.uuid, self.id = told.uuid, told.id
        self._number = told.id

    def _ask(self, request: Request, *sockets: socket.socket, taking: float = 0.0) -> Any:
        """Send `request` with `sockets`, which are closed here.

        The answer may take `taking` seconds and then the patience.
        """
        patience = None if self._patience is None else taking + self._patience
        try:
            descriptors = [one.fileno() for one in sockets]
            return ask(
                self._root,
                self.name,
                request,
                number=self._number,
                descriptors=descriptors,
                patience=patience,
            )
        finally:
            for one in sockets:
                one.close()

    def describe(self) -> Description:
        """What the domain is, and what it has at the moment."""
        try:
            found: Description = decode(Description, self._ask(requests.Describe()), self.name)
        except CodecError as error:
            raise KvmxenError(f"the domain {self.name} is of another version: {error}") from None
        return found

    @property
    def state(self) -> State:
        """What the domain does at the moment."""
        return self.describe().state

    @property
    def console_path(self) -> str:
        """The path of the console's terminal, empty if it has none."""
        return self.describe().console

    def start(self, *, paused: bool = False) -> None:
        """Start the guest at its first instruction; if `paused`, only unpause() lets it run."""
        self._ask(requests.Start(paused))

    def pause(self) -> None:
        """Stop every vCPU where it is; time continues. Returns when all have left the guest."""
        self._ask(requests.Pause())

    def unpause(self) -> None:
        """Undo pause."""
        self._ask(requests.Unpause())

    def shutdown(self) -> bool:
        """Ask the guest to power off, without waiting; returns whether there is a guest to ask."""
        return bool(self._ask(requests.Shutdown()))

    def reboot(self) -> bool:
        """Ask the guest to reboot; see shutdown()."""
        return bool(self._ask(requests.Reboot()))

    def sysrq(self, key: str) -> None:
        """Ask a Linux guest for what its magic SysRq `key`, a letter or digit, does."""
        self._ask(requests.Sysrq(key))

    def nmi(self) -> None:
        """Send vCPU 0 a non-maskable interrupt; a kernel without a callback for it gets none."""
        self._ask(requests.Nmi())

    def destroy(self) -> None:
        """End the guest at once; does not wait."""
        self._ask(requests.Destroy())

    def wait(self, timeout: float | None = None) -> Ending | None:
        """Wait until the domain has ended and its name is free; returns the end, or None if that
        takes longer than `timeout` seconds."""
        if not self._has_ended(math.inf if timeout is None else timeout):
            return None
        end = time.monotonic() + _CLOSING_S
        while self._is_there():
            if time.monotonic() > end:
                raise KvmxenError(
                    f"the domain {self.name} has ended, but its process has not exited"
                )
            time.sleep(_LOOK_EVERY_S)
        return self._recorded()

    def _has_ended(self, timeout: float) -> bool:
        """Whether the domain ends within `timeout` seconds, or had before."""
        end = time.monotonic() + timeout
        while True:
            seconds = max(0.0, min(end - time.monotonic(), requests.MAX_WAIT_S))
            try:
                if self._ask(requests.Wait(seconds), taking=seconds) is not None:
                    return True
            except Gone:
                # Its socket goes before its name.
                return True
            if time.monotonic() >= end:
                return False

    def _is_there(self) -> bool:
        """Whether the name is this domain's, and not free or a later domain's."""
        return any(one.id == self.id for one in running(self._root))

    def _recorded(self) -> Ending:
        record = read_record(self._root, self.name)
        if record is None or record.domain.id != self.id:
            raise KvmxenError(f"the domain {self.name} has ended, and left no record of how")
        match record.end:
            case "failed":
                raise KvmxenError(record.reason)
            case "killed":
                raise KvmxenError(f"the process of the domain {self.name} was killed")
        return Ending(End[record.end.upper()], record.at, record.reason, record.report)

    def open_console(self, *, writes: bool = True, force: bool = False) -> ConsoleStream:
        """Look at the console, whatever its kind, from its history (64 KiB) on.

        With `writes` the stream may also type as soon as no other does; `force` disconnects the
        one that may.
        """
        ours, theirs = socket.socketpair()
        return stream_of(ours, writes=self._ask(requests.Console(writes, force), theirs))

    def events(self) -> EventStream:
        """The events from now on, to be read in any thread."""
        ours, theirs = socket.socketpair()
        self._ask(requests.Events(), theirs)
        return EventStream(ours)

    def stats(self) -> dict[str, object]:
        """The figures of the current run, or the last: counts, times in ns, sizes in KiB."""
        figures: dict[str, object] = self._ask(requests.Stats())
        return figures

    def attach_disk(self, spec: DiskSpec) -> str:
        """Attach a disk; returns its name in the guest."""
        return str(self._ask(requests.BlockAttach(spec)))

    def detach_disk(self, device: str, *, force: bool = False) -> bool:
        """Detach the disk `device` (such as xvdb); returns whether the guest gave it up in 10 s.

        With `force` the guest is not asked.
        """
        return bool(self._ask(requests.BlockDetach(device, force)))

    def resize_disk(self, device: str) -> None:
        """Show the guest the current size of the file of the disk `device`."""
        self._ask(requests.BlockResize(device))

    def attach_net(self, spec: NetSpec) -> int:
        """Attach a network interface; returns its number."""
        return int(self._ask(requests.NetworkAttach(spec)))

    def detach_net(self, number: int, *, force: bool = False) -> bool:
        """Detach the network interface `number`; see detach_disk."""
        return bool(self._ask(requests.NetworkDetach(number, force)))

    def device_figures(self) -> dict[str, dict[str, int]]:
        """The counters of each device, by its kind and number, such as "vbd/51712"."""
        figures: dict[str, dict[str, int]] = self._ask(requests.Figures())
        return figures
