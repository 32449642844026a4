"""The plots of the lab's counts: boots, the parts of kvmxen's boot, and requests to devices."""

from __future__ import annotations

from pathlib import Path

from benchmarks import plot
from benchmarks.lab import report
from benchmarks.lab.devices import REQUESTS

BOOTS = Path("docs/boot.svg")
DEVICES = Path("docs/devices.svg")


def draw_boots(results: report.Results, path: Path = BOOTS) -> None:
    """Draw bars of instructions from the `results` of all jobs into the SVG file `path`."""
    with plot.figure(path, 1, (7.5, 2.6)) as (axes,):
        heads = {**report.STAGED, **report.PEERS}
        names = [head.replace("`", "") for head in heads.values()]
        left = [0.0] * len(names)
        parts = [report.stages(results[job]) for job in report.STAGED]
        for part in parts[0]:
            widths = [column[part] / 1e3 for column in parts]
            axes.barh(names[: len(parts)], widths, left=left[: len(parts)], label=part)
            left = [a + b for a, b in zip(left, widths, strict=False)]
        totals = [report.instructions(results[job]["boot"]) / 1e9 for job in report.PEERS]
        axes.barh(names[len(parts) :], totals, color="0.6")
        axes.invert_yaxis()
        axes.set_xlabel("10^9 instructions from the command to the guest's init")
        axes.legend(fontsize=7, frameon=False)


def draw_devices(results: report.Results, path: Path = DEVICES) -> None:
    """Draw a point for each request's instructions into the SVG file `path`."""
    with plot.figure(path, 1, (7.5, 3)) as (axes,):
        words = list(REQUESTS.values())
        for job, head in report.DEVICES.items():
            counts = [report.request(results[job], name)[0] for name in REQUESTS]
            axes.scatter(counts, words, label=head, zorder=2)
        axes.set_xscale("log")
        axes.grid(axis="y", color="0.9")
        axes.invert_yaxis()
        axes.set_xlabel("instructions of a request")
        axes.legend(fontsize=7, frameon=False)
