"""The plot of what the xenstores do in a second."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.xenstored.measure import Rates

PLOT = Path("docs/xenstore.svg")
_WIDTH = 0.27


def draw(rates: Rates, nodes: int, path: Path = PLOT) -> None:
    """Draw bars, with the spread, of the `rates` with so many `nodes` into the SVG file `path`."""
    import matplotlib as mpl

    mpl.use("svg")
    # Text as text, and the same file from the same numbers.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "kvmxen", "font.size": 9})
    from matplotlib import pyplot

    operations = list(dict.fromkeys(operation for operation, _, _ in rates))
    clients = list(dict.fromkeys(count for _, _, count in rates))
    figure, panels = pyplot.subplots(
        1, len(clients), figsize=(7.5, 2.8), layout="constrained", squeeze=False
    )
    for axes, count in zip(panels[0], clients, strict=True):
        for place, server in enumerate(rates[operations[0], nodes, count]):
            samples = [rates[operation, nodes, count][server].rate for operation in operations]
            medians = [sample.median / 1000 for sample in samples]
            below = [m - min(s.values) / 1000 for m, s in zip(medians, samples, strict=True)]
            above = [max(s.values) / 1000 - m for m, s in zip(medians, samples, strict=True)]
            where = [index + (place - 1) * _WIDTH for index in range(len(operations))]
            spread = {"yerr": [below, above], "error_kw": {"linewidth": 0.7}}
            axes.bar(where, medians, _WIDTH, label=server, **spread)
        axes.set_xticks(range(len(operations)), operations, fontsize=7)
        axes.set_title("one client" if count == 1 else f"{count} clients", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("thousands a second")
    panels[0][0].legend(fontsize=7, frameon=False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
