"""kvmxen top: the activity of a running domain's devices, second by second."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import click

from kvmxen.cli.named import domain_name, name_of

if TYPE_CHECKING:
    from rich.table import Table

Figures = dict[str, dict[str, int]]


class Row(NamedTuple):
    """A line of the table; `rate` is per second."""

    device: str
    what: str
    total: int
    rate: float


@click.command()
@domain_name
@click.option("--once", is_flag=True, help="Print the totals once, and exit.")
@click.option("--json", "as_json", is_flag=True, help="Print the totals once, as JSON.")
def top(name: str, once: bool, as_json: bool) -> None:
    """Show the requests, bytes, merges, kicks and errors of each device of the domain NAME.

    The totals and the rates per second are updated every second, until Ctrl-C.
    """
    from kvmxen.domain.control.client import ask
    from kvmxen.domain.control.requests import Figures as Ask
    from kvmxen.domain.rundir import runtime_root

    root = runtime_root()
    name = name_of(name)
    figures = ask(root, name, Ask())
    if as_json:
        click.echo(json.dumps(figures))
    elif once:
        if not figures:
            click.echo("no devices")
        for device, counts in figures.items():
            click.echo(f"{device}:")
            for what, count in counts.items():
                click.echo(f"  {what:32} {count:>16,}")
    else:
        _watch(lambda: ask(root, name, Ask()), figures)


def _watch(ask: Callable[[], Figures], before: Figures) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console()

    def shown(figures: Figures, seconds: float) -> Table:
        # The headers and the line below take rows too; the size may change at any time.
        return _table(rows(figures, before, seconds), console.height - 3)

    with Live(shown(before, 1.0), console=console, auto_refresh=False) as live:
        since = time.monotonic()
        while True:
            time.sleep(1)
            now, figures = time.monotonic(), ask()
            live.update(shown(figures, now - since), refresh=True)
            before, since = figures, now


def rows(figures: Figures, before: Figures, seconds: float) -> list[Row]:
    """The rows to show of `figures`, without those of what never happened.

    `before` are the figures of `seconds` ago.
    """
    return [
        Row(device, what, count, (count - before.get(device, {}).get(what, count)) / seconds)
        for device, counts in figures.items()
        for what, count in counts.items()
        if count
    ]


def fitting(rows: list[Row], most: int) -> list[Row]:
    """At most `most` of `rows`, in their order; active ones take precedence."""
    busiest = sorted(range(len(rows)), key=lambda n: not rows[n].rate)
    return [rows[n] for n in sorted(busiest[: max(most, 1)])]


def _table(rows: list[Row], most: int) -> Table:
    from rich.table import Table

    shown = fitting(rows, most)
    left = len(rows) - len(shown)
    table = Table(box=None, caption_justify="left")
    table.caption = f"and {left} more: --once shows all" if left else None
    table.add_column("device")
    table.add_column("what")
    table.add_column("total", justify="right")
    table.add_column("per second", justify="right")
    last = ""
    for row in shown:
        device = row.device if row.device != last else ""
        table.add_row(device, row.what, f"{row.total:,}", f"{row.rate:,.0f}")
        last = row.device
    if not rows:
        table.add_row("no devices, or none of them has done anything")
    return table
