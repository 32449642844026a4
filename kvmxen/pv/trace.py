"""--debug: a line for each hypercall and trap."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO

from kvmxen.pv.cpu import Cpu
from kvmxen.pv.shim.abi import constants
from kvmxen.xen.abi import x86
from kvmxen.xen.abi.xen import Hypercall
from kvmxen.xen.grants import GrantTable

EXCEPTIONS = {
    0: "#DE",
    1: "#DB",
    2: "NMI",
    3: "#BP",
    4: "#OF",
    5: "#BR",
    6: "#UD",
    7: "#NM",
    8: "#DF",
    10: "#TS",
    11: "#NP",
    12: "#SS",
    13: "#GP",
    14: "#PF",
    16: "#MF",
    17: "#AC",
    18: "#MC",
    19: "#XM",
    21: "#CP",
}


def trap_name(trap: int) -> str:
    """The name of a trap number of PvVcpu.run."""
    names = {
        value: name.removeprefix("STUB_").removeprefix("TRAP_").lower()
        for name, value in constants().items()
        if name.startswith(("STUB_", "TRAP_"))
    }
    return EXCEPTIONS.get(trap) or names.get(trap) or f"trap {trap}"


def hypercall_name(number: int) -> str:
    """The name of hypercall `number`."""
    return Hypercall(number).name if number in list(Hypercall) else f"hypercall_{number}"


class Trace:
    """Writes one line for each event to `out`."""

    def __init__(self, out: TextIO = sys.stderr) -> None:
        self._out = out

    def hypercall(
        self, cpu: Cpu, number: int, arguments: Sequence[int], result: int | None
    ) -> None:
        """Write a line for a hypercall that returned."""
        shown = ", ".join(f"{argument:#x}" for argument in arguments[:4])
        if result is None:
            outcome = ""
        elif -4096 < result < 0:
            outcome = f" = -{errno.errorcode.get(-result, -result)}"
        else:
            outcome = f" = {result:#x}"
        self._line(cpu, f"{hypercall_name(number)}({shown}){outcome}")

    def trap(self, cpu: Cpu, trap: int) -> None:
        """Write a line for a trap other than a hypercall."""
        vcpu = cpu.vcpu
        if trap == constants()["TRAP_SYSCALL"] and vcpu.kernel_mode:
            return
        mode = "kernel" if vcpu.kernel_mode else "user"
        faulted = trap == x86.TRAP_PAGE_FAULT
        detail = f" error {vcpu.error_code:#x} cr2 {vcpu.cr2:#x}" if faulted else ""
        self._line(cpu, f"{trap_name(trap)} in {mode} at {vcpu.rip:#x}{detail}")

    def grants(self, grants: GrantTable) -> None:
        """Write a line for each grant in use."""
        for reference, (readers, writers) in grants.pinned().items():
            self._print(
                f"grant {reference}: pinned {readers} times for reading, {writers} for writing"
            )

    def _line(self, cpu: Cpu, text: str) -> None:
        self._print(f"vcpu{cpu.index}: {text}")

    def _print(self, line: str) -> None:
        # A full disk must not end the guest.
        with suppress(OSError):
            print(line, file=self._out)
