"""The measured machine: one emulated CPU whose clock counts executed instructions."""

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
# In seconds; an idle CPU needs a fifth of that.
_LIMIT = 3600
_CMDLINE = "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable nokaslr"


def run(ramdisk: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Boot `ramdisk`; return the results of its jobs called `names`, or of all, by name.

    Raises KvmxenError if the machine does not run.
    """
    if not shutil.which(_QEMU):
        raise KvmxenError("the lab needs QEMU: apt-get install qemu-system-x86")
    with TemporaryDirectory(prefix="kvmxen-lab-") as temp:
        results = Path(temp, "results")
        options = {
            "accel": "tcg,thread=single",
            # One instruction is one nanosecond; the clock jumps while the CPU is idle.
            "icount": "shift=0,sleep=off",
            "seed": "1",
            "rtc": "base=2026-01-01T00:00:00,clock=vm",
            "machine": "q35",
            # QEMU 7.2 emulates iretq in ring 3 wrongly if the CPU has SMAP.
            "cpu": "max,+svm,+npt,-smap",
            "smp": "1",
            "m": "4G",
            "kernel": str(packages.debian_kernel(image.HOST_KERNEL)),
            "initrd": str(ramdisk),
            # Parameters unknown to the kernel become its init's environment.
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
