"""The measured machine: one emulated CPU whose clock counts what it executes."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.lab import image
from kvmxen.errors import KvmxenError
from tests import packages

_QEMU = "qemu-system-x86_64"
# Seconds; it takes a fifth of that on an idle CPU.
_LIMIT = 3600
_CMDLINE = "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable nokaslr"


def run(ramdisk: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Boot `ramdisk`; what its jobs called `names`, or all, say of themselves, by name.

    Raises KvmxenError where the machine does not run.
    """
    if not shutil.which(_QEMU):
        raise KvmxenError("the lab needs QEMU: apt-get install qemu-system-x86")
    with TemporaryDirectory(prefix="kvmxen-lab-") as temp:
        results = Path(temp, "results")
        options = {
            "accel": "tcg,thread=single",
            # One instruction is one nanosecond, and where nothing runs the clock jumps.
            "icount": "shift=0,sleep=off",
            "seed": "1",
            "rtc": "base=2026-01-01T00:00:00,clock=vm",
            "machine": "q35",
            # QEMU 7.2 does iretq in ring 3 wrong where the CPU has SMAP.
            "cpu": "max,+svm,+npt,-smap",
            "smp": "1",
            "m": "4G",
            "kernel": str(packages.debian_kernel(image.HOST_KERNEL)),
            "initrd": str(ramdisk),
            # What the kernel does not know goes to its init's environment.
            "append": f"{_CMDLINE} jobs={','.join(names)}",
            "display": "none",
        }
        flags = [argument for name, value in options.items() for argument in (f"-{name}", value)]
        serial = ["-serial", "stdio", "-serial", f"file:{results}"]
        command = [_QEMU, "-nodefaults", "-no-user-config", "-no-reboot", *flags, *serial]
        try:
            subprocess.run(command, stdin=subprocess.DEVNULL, timeout=_LIMIT, check=False)
        except subprocess.TimeoutExpired:
            raise KvmxenError(f"the lab did not end within {_LIMIT} s") from None
        found = [json.loads(line) for line in results.read_text().splitlines()]
    if not found:
        raise KvmxenError("the lab's machine ended before its first job did")
    return {result["name"]: result for result in found}
