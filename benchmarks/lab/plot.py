"""The plot of the lab's boots: what each takes to its init, kvmxen's in parts."""

from __future__ import annotations

from pathlib import Path

from benchmarks.lab import report

PLOT = Path("docs/boot.svg")


def draw(results: report.Results, path: Path = PLOT) -> None:
    """Draw bars of instructions from the `results` of all jobs into the SVG file `path`."""
    import matplotlib as mpl

    mpl.use("svg")
    # Text as text, and the same file from the same numbers.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "kvmxen", "font.size": 9})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 2.6), layout="constrained")
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
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
