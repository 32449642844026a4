"""The page's first table, with the figures that a person wants first, from its other tables."""

from __future__ import annotations

import re
from typing import NamedTuple

from benchmarks.page import replace, section, table

SUMMARY = "summary"


class _Figure(NamedTuple):
    """A cell of `section`'s table, and the neighbouring one that it is compared with, if any."""

    what: str
    section: str
    row: str
    column: str
    unit: str
    other: str = ""
    named: str = ""


_FIGURES = (
    _Figure("Debian 12's kernel, command to init", "boot", "**command to init**", "6.1, later",
            "s", "6.1, first", "first boot, unpacking it"),
    _Figure("the demo guest, command to its first line", "boot", "**command to init**", "demo",
            "s"),
    _Figure("exits of such a boot", "counts", "**exits**", "6.1", ""),
    _Figure("memory of such a process, beside the guest's", "memory", "the process's own", "6.1",
            "MiB"),
    _Figure("null hypercall", "guest", "null hypercall (`xen_version`)", "us", "us",
            "us, `--shim exits`", "`--shim exits`"),
    _Figure("system call in a Debian guest", "linux", "system call (`getppid`)", "us", "us",
            "us, `--shim exits`", "`--shim exits`"),
    _Figure("disk's ring, 4 KiB reads, depth 32, a second", "block",
            "4 KiB random read, depth 32", "a second", "", "of fio", "of fio's rate"),
    _Figure("network's ring, guest to link, 1,514 bytes", "net",
            "guest to link, 1,514 bytes", "MB/s", "MB/s"),
    _Figure("xenstore reads, 1,000 nodes, thousands a second", "xenstore 1", "read, 1,000 nodes",
            "kvmxen", "", "oxenstored", "oxenstored"),
    _Figure("such a boot in 10^9 instructions, with SVM", "lab boot",
            "**10^9 instructions to init**", "kvmxen", "", "QEMU + pv-shim", "QEMU + pv-shim"),
    _Figure("4 KiB disk read, depth 32, in instructions", "lab devices",
            "4 KiB random read, depth 32", "kvmxen, instructions", "",
            "QEMU + pv-shim, instructions", "QEMU + pv-shim"),
)  # fmt: skip


def summarised(page: str) -> str:
    """`page` with an updated summary; raises ValueError if a table lacks one of its figures."""
    rows = []
    for figure in _FIGURES:
        cells = _row(section(page, figure.section), figure.row)
        other = f"{figure.named}: {_median(cells[figure.other])}" if figure.other else ""
        rows.append([figure.what, f"{_median(cells[figure.column])} {figure.unit}".strip(), other])
    return replace(page, SUMMARY, table(["", "kvmxen", "compared with"], rows))


def _row(text: str, label: str) -> dict[str, str]:
    """The cells of the row that begins with `label`, by the headings of their columns."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    for cells in lines:
        if cells[0] == label:
            return dict(zip(lines[0], cells, strict=True))
    raise ValueError(f"there is no row {label}")


def _median(cell: str) -> str:
    """The cell without its minimum and maximum."""
    return re.sub(r" \(.*\)$", "", cell)
