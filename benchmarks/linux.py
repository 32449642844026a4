"""What programs pay under Debian 12's kernel: the loops of benchmarks/lab/guest.c, by its clock."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import guest
from benchmarks.lab import image
from benchmarks.lab.report import OPERATIONS
from tests import packages

_RUNS = 9
_TIMED = re.compile(r"BENCH (\w+) (\d+) (\d+)")


def _run(ramdisk: Path, shim: str) -> dict[str, float]:
    """ns of one of each operation."""
    kernel = str(packages.debian_kernel(image.GUEST_KERNEL))
    command = [sys.executable, "-m", "kvmxen", "boot", kernel, "--ramdisk", str(ramdisk)]
    command += ["--memory", "256M", "--timeout", "120", "--shim", shim]
    command += ["--cmdline", "console=hvc0 quiet"]
    result = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    found = {name: int(ns) / int(rounds) for name, rounds, ns in _TIMED.findall(result.stdout)}
    if result.returncode or OPERATIONS.keys() - found.keys():
        raise RuntimeError(f"the guest failed:\n{result.stdout}{result.stderr}")
    return found


def measure() -> str:
    """The table."""
    with TemporaryDirectory() as folder:
        ramdisk = Path(folder, "ramdisk")
        ramdisk.write_bytes(image.operations())
        runs = [(_run(ramdisk, "dispatch"), _run(ramdisk, "exits")) for _ in range(_RUNS)]
    return guest.report(OPERATIONS, runs)
