"""Measures a disk in a Debian guest with its own blkfront, against fio on the host on the same
file.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.block import COUNTS, JOBS, Bench, Job, fio_command, fio_seconds
from benchmarks.page import table
from benchmarks.sample import Pair, Sample, in_turn
from kvmxen.errors import KvmxenError
from tests import packages
from tests.e2e.disks import make_ramdisk

_VERSION = "6.1"
# fio's libraries are large.
_MEMORY = "1G"
_PAIRS, _SPARE = 3, 1
# A guest takes its time.
_FEWER = 5
_END = "poweroff -f\n"


@dataclass(frozen=True)
class Result:
    """A job's seconds in the guest and on the host, and the counts of all its boots for each
    request."""

    job: Job
    times: Pair
    each: dict[str, float]

    def row(self) -> list[str]:
        """A row of the page's table; the ratio compares requests per second, more is better."""
        rates = Sample.of([self.job.total / seconds for seconds in self.times.first.values])
        ratio = Sample.of([1 / value for value in self.times.ratio.values])
        shown = [f"{self.each[name]:.3f}" for name in ("exits", "kicks", "notifications")]
        return [
            self.job.name,
            rates.show(",.0f"),
            ratio.show(".2f"),
            *shown,
            f"{self.each['syscalls']:.2f}",
            f"{self.each['bytes_copied']:.0f}",
        ]


class Guest:
    """Boots of Debian's kernel, with `file` as its disk, in `folder`."""

    def __init__(self, folder: Path, file: Path, fio: Path) -> None:
        self._folder, self._file, self._fio = folder, file, fio
        self._kernel = packages.debian_kernel(_VERSION)
        self.idle = self._boot(_END)[1]

    def _boot(self, script: str) -> tuple[str, Counter[str]]:
        """The output of `script`, and the counts of the boot."""
        ramdisk = make_ramdisk(self._folder / "ramdisk", _VERSION, script, self._fio)
        command = [sys.executable, "-m", "kvmxen", "boot", str(self._kernel), "--ramdisk",
                   str(ramdisk), "--disk", f"{self._file},cache=none", "--cmdline", "quiet",
                   "--memory", _MEMORY, "--stats=json", "--timeout", "200"]  # fmt: skip
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
            env=os.environ | {"XDG_CACHE_HOME": str(self._folder)},
        )  # fmt: skip
        return ended.stdout, figures(json.loads(ended.stderr.splitlines()[-1]))

    def run(self, job: Job, total: Counter[str]) -> float:
        """The seconds that fio takes for `job`; adds its counts to `total`."""
        printed, taken = self._boot(f"{shlex.join(fio_command(job, '/dev/xvda'))}\n{_END}")
        total.update(taken)
        total.subtract(self.idle)
        found = re.search(r"^3;fio.*", printed, re.MULTILINE)
        if not found:
            raise KvmxenError(f"fio failed in the guest: {printed[-400:]}")
        return fio_seconds(job, found[0])


def figures(stats: dict[str, Any]) -> Counter[str]:
    """The counts in a boot's --stats=json."""
    (disk,) = (each for name, each in stats.items() if name.startswith("vbd/"))
    counts = {name: disk[name] for name in COUNTS}
    return Counter(
        {"requests": disk["reads"] + disk["writes"], "exits": stats["exits_total"]} | counts
    )


def measure() -> str:
    """The table; raises KvmxenError if there is no fio, Unavailable without Debian's kernel."""
    fio = shutil.which("fio")
    if not fio:
        raise KvmxenError("this benchmark needs fio: install Debian's package fio")
    results = []
    with TemporaryDirectory(prefix="kvmxen-bench-", dir=".cache") as folder:
        bench = Bench(Path(folder))
        guest = Guest(Path(folder), bench.file, Path(fio))
        for job in (replace(each, total=each.total // _FEWER) for each in JOBS):
            total: Counter[str] = Counter()
            times = in_turn(
                lambda job=job, total=total: guest.run(job, total),  # type: ignore[misc]
                lambda job=job: bench.fio(job),  # type: ignore[misc]
                _PAIRS,
                _SPARE,
            )
            each = {name: count / total["requests"] for name, count in total.items()}
            results.append(Result(job, times, each))
    return report(results)


def report(results: list[Result]) -> str:
    """The table of `results`."""
    head = ["requests", "a second", "of the host", "exits", "kicks", "notifications"]
    return table([*head, "system calls", "copied"], [result.row() for result in results])
