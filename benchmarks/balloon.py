"""Measures ballooning: the process's CPU time while a Debian guest returns a GiB of its memory and
takes it back, idle and with many processes, whose page tables must not raise the cost.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.page import table
from benchmarks.sample import Sample
from kvmxen.domain.initramfs import system
from tests import packages

_KERNEL = "6.1"
_RUNS = 3
_NAME = "balloon"
_MEMORY_KIB = 1536 << 10
_LESS_KIB = 512 << 10
_PROCESSES = {"idle": 0, "150 processes": 150}
ROWS = {"give": "a GiB is given back, s", "take": "it is taken again, s"}
# Reports the amount of memory whenever it changes.
_INIT = """#!/bin/busybox sh
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t proc proc /proc
now=/sys/devices/system/xen_memory/xen_memory0/info/current_kb
for process in $(/bin/busybox seq $(/bin/busybox sed 's/.*processes=//' /proc/cmdline)); do
    /bin/busybox sleep 100000 &
done
while :; do
    read kib < $now
    [ "$kib" = "$last" ] || echo "it has $kib KiB"
    last=$kib
    /bin/busybox sleep 0.2
done
"""


def cpu_seconds(stat: str) -> float:
    """The CPU time of a process, from the text of /proc/PID/stat (proc(5))."""
    user, kernel = stat.rpartition(")")[2].split()[11:13]
    return (int(user) + int(kernel)) / os.sysconf("SC_CLK_TCK")


def _run(ramdisk: Path, folder: Path, processes: int) -> dict[str, float]:
    """The CPU seconds for each direction."""
    environment = os.environ | {"KVMXEN_RUNTIME_DIR": str(folder)}
    kvmxen = sys.executable, "-m", "kvmxen"
    options = ("--memory", f"{_MEMORY_KIB}K", "--ramdisk", str(ramdisk), "--name", _NAME)
    with subprocess.Popen(
        [
            *(*kvmxen, "boot", str(packages.debian_kernel(_KERNEL)), *options),
            *("--cmdline", f"console=hvc0 quiet processes={processes}"),
        ],
        env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    ) as domain:  # fmt: skip
        assert domain.stdout

        def wait_for(kib: int) -> float:
            """Wait until the guest has that much memory; return the CPU seconds used so far."""
            assert domain.stdout
            for line in domain.stdout:
                if re.search(rf"it has {kib} KiB", line):
                    return cpu_seconds(Path(f"/proc/{domain.pid}/stat").read_text())
            raise RuntimeError("the guest ended")

        def change(kib: int) -> float:
            command = [*kvmxen, "xenstore", "write", _NAME, "memory/target", str(kib)]
            subprocess.run(command, env=environment, check=True)
            return wait_for(kib)

        try:
            begin = wait_for(_MEMORY_KIB)
            given = change(_LESS_KIB)
            return {"give": given - begin, "take": change(_MEMORY_KIB) - given}
        finally:
            domain.send_signal(signal.SIGKILL)


def measure() -> str:
    """The table."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in _PROCESSES}
    with TemporaryDirectory() as name:
        folder = Path(name)
        ramdisk = folder / "ramdisk"
        ramdisk.write_bytes(system(packages.busybox(), _INIT))
        for _ in range(_RUNS):
            for column, processes in _PROCESSES.items():
                runs[column].append(_run(ramdisk, folder / "run", processes))
    return report(runs)


def report(runs: dict[str, list[dict[str, float]]]) -> str:
    """The table of CPU seconds."""
    rows = [
        [words, *(Sample.of([run[way] for run in column]).show(".2f") for column in runs.values())]
        for way, words in ROWS.items()
    ]
    return table(["CPU time", *runs], rows)
