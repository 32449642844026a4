"""kvmxen top: what the devices of a running domain do, second by second."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.table import Table

Figures = dict[str, dict[str, int]]


@click.command(short_help="Show what a running domain's devices do.")
@click.argument("name")
@click.option("--once", is_flag=True, help="Print the totals once, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print the totals once, for a program.")
def top(name: str, once: bool, as_json: bool) -> None:
    """Show the requests, bytes, merges, kicks and errors of each device of the domain NAME.

    In total, and in a second; Ctrl-C ends it.
    """
    from kvmxen.control.client import ask
    from kvmxen.control.requests import Figures as Ask
    from kvmxen.rundir import runtime_root

    root = runtime_root()
    figures = ask(root, name, Ask())
    if as_json:
        click.echo(json.dumps(figures))
    elif once:
        for device, counts in figures.items():
            click.echo(f"{device}:")
            for what, count in counts.items():
                click.echo(f"  {what:32} {count:>16,}")
    else:
        _watch(lambda: ask(root, name, Ask()), figures)


def _watch(ask: Any, before: Figures) -> None:
    from rich.live import Live

    with Live(_table(before, {}, 1.0), auto_refresh=False) as live:
        since = time.monotonic()
        while True:
            time.sleep(1)
            now, figures = time.monotonic(), ask()
            live.update(_table(figures, before, now - since), refresh=True)
            before, since = figures, now


def _table(figures: Figures, before: Figures, seconds: float) -> Table:
    from rich.table import Table

    table = Table(box=None)
    table.add_column("device")
    table.add_column("what")
    table.add_column("total", justify="right")
    table.add_column("a second", justify="right")
    for device, counts in figures.items():
        for what, count in counts.items():
            rate = (count - before.get(device, {}).get(what, count)) / seconds
            table.add_row(device, what, f"{count:,}", f"{rate:,.0f}")
            device = ""
    return table
