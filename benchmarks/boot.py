"""Measures boots of the demo guest and of Debian's kernels: time by stage, exits, hypercalls,
memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.page import table
from benchmarks.sample import Sample
from kvmxen import guests
from kvmxen.domain.initramfs import system
from tests import packages

KERNELS = ("6.1", "6.12")
_BOOTS = 5
# Python stores compiled modules, whatever the environment says: an installed kvmxen is compiled.
_COMPILED = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": "build/bench"}
_INIT = """#!/bin/busybox sh
/bin/busybox echo the init runs
/bin/busybox poweroff -f
"""
_MARKER = b"the init runs"
_DEMO = Path(guests.__file__).parent / "demo.elf"

STAGES = {
    "python": "Python starts and imports",
    "kernel": "kernel read and decompressed",
    "machine": "VM made and probed",
    "domain": "domain built",
    "init": "guest runs until its init (the demo: its first line)",
    "end": "guest powers off, process ends",
}


@dataclass(frozen=True)
class Boot:
    """One boot: `stages` in seconds each; `figures` are those of --stats=json."""

    stages: dict[str, float]
    figures: dict[str, Any]

    @property
    def to_init(self) -> float:
        """The seconds from the command to the end of the stage "init"."""
        return sum(self.stages.values()) - self.stages["end"]


def durations(ends: dict[str, int]) -> dict[str, float]:
    """The seconds of each stage, from the ns of its end since the process was started."""
    times = [0, *(ends[stage] for stage in STAGES)]
    return {
        stage: (end - begin) / 1e9
        for stage, begin, end in zip(STAGES, times, times[1:], strict=False)
    }


def _boot(kernel: Path, cache: Path, marker: bytes, *options: str) -> Boot:
    """Boot `kernel`, and record the time when its console shows `marker`."""
    arguments = [str(kernel), "--timeout", "120", "--stats=json", *options]
    spawned = time.monotonic_ns()
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.staged", str(spawned), "boot", *arguments],
        env=os.environ | _COMPILED | {"XDG_CACHE_HOME": str(cache)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stderr
        init, output = 0, b""
        while data := os.read(process.stdout.fileno(), 1 << 16):
            output += data
            if not init and marker in output:
                init = time.monotonic_ns() - spawned
        errors = process.stderr.read().decode()
    end = time.monotonic_ns() - spawned
    if process.returncode or not init:
        raise RuntimeError(f"the boot of {kernel} failed:\n{output.decode()}{errors}")
    figures = json.loads(errors.splitlines()[-1])
    return Boot(durations(figures["stages_ns"] | {"init": init, "end": end}), figures)


def measure() -> dict[str, str]:
    """The sections: times, counts and memory."""
    columns: dict[str, list[Boot]] = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        columns["demo"] = [_boot(_DEMO, folder, b"\n") for _ in range(_BOOTS + 1)][1:]
        ramdisk = folder / "ramdisk"
        ramdisk.write_bytes(system(packages.busybox(), _INIT))
        options = ("--ramdisk", str(ramdisk))
        for version in KERNELS:
            kernel = packages.debian_kernel(version)
            first = columns[f"{version}, first"] = []
            later = columns[f"{version}, later"] = []
            for number in range(_BOOTS):
                cache = folder / f"{version}-{number}"
                first.append(_boot(kernel, cache, _MARKER, *options))
                later.append(_boot(kernel, cache, _MARKER, *options))
    latest = {
        name.removesuffix(", later"): boots
        for name, boots in columns.items()
        if not name.endswith(", first")
    }
    return {"boot": times(columns), "counts": counts(latest), "memory": memory(latest)}


def times(columns: dict[str, list[Boot]]) -> str:
    """The table of the stages, in seconds."""
    rows = [
        [
            words,
            *(Sample.of([b.stages[s] for b in boots]).show(".2f") for boots in columns.values()),
        ]
        for s, words in STAGES.items()
    ]
    total = [Sample.of([b.to_init for b in boots]).show(".2f") for boots in columns.values()]
    return table(["seconds", *columns], [*rows, ["**command to init**", *total]])


def counts(columns: dict[str, list[Boot]]) -> str:
    """The table of exits and hypercalls: the medians of those above a hundred."""
    rows = [["**exits**", *(_median(boots, "exits_total") for boots in columns.values())]]
    for kind, prefix in {"exits": "", "hypercalls": "hypercall "}.items():
        rows += [
            [f"{prefix}`{name}`", *(_median(boots, kind, name) for boots in columns.values())]
            for name in _names(kind, columns)
        ]
    return table(["a boot", *columns], rows)


def _names(kind: str, columns: dict[str, list[Boot]]) -> list[str]:
    boots = [boot for column in columns.values() for boot in column]
    most: dict[str, int] = {}
    for boot in boots:
        for name, count in boot.figures[kind].items():
            most[name] = max(count, most.get(name, 0))
    return [name for name in sorted(most, key=lambda name: -most[name]) if most[name] > 100]


def _median(boots: list[Boot], *path: str) -> str:
    values = []
    for boot in boots:
        value: Any = boot.figures
        for key in path:
            value = value.get(key, 0)
        values.append(value)
    return f"{Sample.of(values).median:,.0f}"


def memory(columns: dict[str, list[Boot]]) -> str:
    """The table of resident memory, in MiB."""
    words = {
        "guest": "the guest's",
        "own": "the process's own",
        "private": "of which shared with no other process",
    }
    return table(
        ["MiB resident at the end", *columns],
        [
            [
                text,
                *(
                    Sample.of([b.figures["memory_kib"][key] / 1024 for b in boots]).show(".1f")
                    for boots in columns.values()
                ),
            ]
            for key, text in words.items()
        ],
    )
