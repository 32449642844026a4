"""The plot of the xenstores' operations per second."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import plot
from benchmarks.sample import Sample

if TYPE_CHECKING:
    from benchmarks.xenstored.measure import Rates

PLOT = Path("docs/xenstore.svg")


def draw(rates: Rates, nodes: int, path: Path = PLOT) -> None:
    """Draw bars, with the spread, of the `rates` with that many `nodes` into the SVG file
    `path`."""
    operations = list(dict.fromkeys(operation for operation, _, _ in rates))
    clients = list(dict.fromkeys(count for _, _, count in rates))
    with plot.figure(path, len(clients), (7.5, 2.8)) as panels:
        for axes, count in zip(panels, clients, strict=True):
            series = {
                server: [
                    Sample.of(
                        [value / 1000 for value in rates[name, nodes, count][server].rate.values]
                    )
                    for name in operations
                ]
                for server in rates[operations[0], nodes, count]
            }
            plot.bars(axes, operations, series)
            axes.set_title("one client" if count == 1 else f"{count} clients", fontsize=9)
        panels[0].set_ylabel("thousands a second")
        panels[0].legend(fontsize=7, frameon=False)
