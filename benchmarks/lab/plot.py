"""The plot of the lab's boots: what each takes to its init, kvmxen's in parts."""

from __future__ import annotations

from pathlib import Path

from benchmarks import plot
from benchmarks.lab import report

PLOT = Path("docs/boot.svg")


def draw(results: report.Results, path: Path = PLOT) -> None:
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
