"""One run of a domain's guest, from its first instruction to its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from kvmxen.backends.console import Console
from kvmxen.backends.xenstore import XenstoreBackend
from kvmxen.domain.devices import Devices
from kvmxen.domain.ending import Ending
from kvmxen.domain.figures import figures
from kvmxen.domain.report import crash_report
from kvmxen.pv.machine import End, Machine
from kvmxen.pv.run import run
from kvmxen.pv.trace import Trace


class Run:
    """A guest's machine and its services, as recipe.py builds them, not started yet.

    `serving` ends the services, `undo` the services and the machine.
    """

    def __init__(
        self,
        *,
        machine: Machine,
        trace: Trace | None,
        symbol: Callable[[int], str | None],
        xenstore: XenstoreBackend,
        console: Console,
        devices: Devices,
        serving: ExitStack,
        undo: ExitStack,
        began: int,
    ) -> None:
        self.machine = machine
        self._trace = trace
        self.devices = devices
        self._symbol = symbol
        self._xenstore = xenstore
        self._console = console
        self._serving = serving
        self._undo = undo
        self._began = began
        self._built = time.monotonic_ns()

    def start(self) -> None:
        """Start the vCPUs, unless they are paused."""
        self._built = time.monotonic_ns()
        self.machine.start(partial(run, trace=self._trace))

    def abandon(self) -> None:
        """Free everything, even if the run was not finished."""
        self._undo.close()

    def request(self, how: str) -> None:
        """Ask the guest to end itself: "poweroff", "reboot" or "halt"."""
        self._xenstore.request_shutdown(how)

    def sysrq(self, key: str) -> None:
        """Pass a SysRq key on to the guest."""
        self._xenstore.request_sysrq(key)

    def figures(self) -> dict[str, object]:
        """The figures so far: counts, times in ns, memory in KiB."""
        return figures(
            self.machine,
            self.devices.device_figures(),
            build_ns=self._built - self._began,
            run_ns=time.monotonic_ns() - self._built,
        )

    def stop(self, end: End) -> Ending:
        """End the vCPUs' threads; the services and the guest's memory stay. Returns how it ended.

        Raises the internal error, if any, that stopped a thread of the run.
        """
        machine = self.machine
        at = time.time()
        self._xenstore.shut_down()
        machine.stop()
        machine.join()
        if self._trace:
            self._trace.grants(machine.grants)
        self._console.close()
        self._check()
        if end is not End.CRASH:
            return Ending(end, at)
        report = crash_report(machine, self._symbol, self._console.tail)
        return Ending(end, at, machine.crash_reason, report)

    def close(self) -> None:
        """End the services, which takes long if a device is slow to close, and free everything.

        Raises the internal error, if any, that stopped a thread of them.
        """
        with self._undo:
            self._serving.close()
            self._check()

    def _check(self) -> None:
        if self.machine.failure is not None:
            raise self.machine.failure
