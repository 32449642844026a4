"""Measures programs' costs under Debian 12's kernel: the loops of benchmarks/lab/guest.c, by its
clock.
"""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import guest
from benchmarks.lab import image
from benchmarks.lab.report import OPERATIONS
from tests import packages

_TIMED = re.compile(r"BENCH (\w+) (\d+) (\d+)")


def _run(ramdisk: Path, shim: str) -> dict[str, float]:
    """The ns of each operation."""
    kernel = packages.debian_kernel(image.GUEST_KERNEL)
    options = ("--ramdisk", str(ramdisk), "--memory", "256M", "--cmdline", "console=hvc0 quiet")
    output = guest.boot(kernel, shim, *options)
    found = {name: int(ns) / int(rounds) for name, rounds, ns in _TIMED.findall(output)}
    if OPERATIONS.keys() - found.keys():
        raise RuntimeError(f"the guest failed:\n{output}")
    return found


def measure() -> str:
    """The table."""
    with TemporaryDirectory() as folder:
        ramdisk = Path(folder, "ramdisk")
        ramdisk.write_bytes(image.operations())
        return guest.report(OPERATIONS, guest.both_ways(lambda shim: _run(ramdisk, shim)))
