"""The common parts of the plots: SVG files, and bars with their spread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.sample import Sample

_ROOM = 0.8


@contextmanager
def figure(path: Path, panels: int, size: tuple[float, float]) -> Iterator[Sequence[Any]]:
    """Axes side by side, to draw into; on exit they become the SVG file `path`. `size` is in
    inches.

    Raises ImportError if there is no matplotlib.
    """
    import matplotlib as mpl

    mpl.use("svg")
    # Text stays text, and the same numbers give the same file.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "kvmxen", "font.size": 9})
    from matplotlib import pyplot

    drawn, axes = pyplot.subplots(1, panels, figsize=size, layout="constrained", squeeze=False)
    for each in axes[0]:
        each.spines[["top", "right"]].set_visible(False)
    yield axes[0]
    drawn.savefig(path, metadata={"Date": None})
    pyplot.close(drawn)


def bars(axes: Any, names: Sequence[str], series: dict[str, list[Sample]]) -> None:
    """A group of bars for each of `names`, with one for each of `series`: medians and spreads."""
    width = _ROOM / len(series)
    for place, (label, samples) in enumerate(series.items()):
        medians = [sample.median for sample in samples]
        below = [sample.median - min(sample.values) for sample in samples]
        above = [max(sample.values) - sample.median for sample in samples]
        where = [index + (place - (len(series) - 1) / 2) * width for index in range(len(names))]
        axes.bar(
            where, medians, width, label=label, yerr=[below, above], error_kw={"linewidth": 0.7}
        )
    axes.set_xticks(range(len(names)), names, fontsize=7)
