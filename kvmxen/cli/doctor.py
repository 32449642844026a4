"""kvmxen doctor: the report, as a table on a terminal and as plain lines elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from kvmxen.errors import KvmxenError

if TYPE_CHECKING:
    from kvmxen.domain.doctor import Finding


@click.command()
def doctor() -> int:
    """Report what this host's /dev/kvm can do, what that means, and how to get access.

    The exit status is 0 if a PV guest can run, else 1.
    """
    from kvmxen.domain.doctor import examine

    diagnosis = examine()
    if sys.stdout.isatty():
        _table(diagnosis.findings)
    else:
        _lines(diagnosis.findings)
    if diagnosis.obstacle:
        sys.stdout.flush()
        raise KvmxenError(diagnosis.obstacle)
    return 0


def _table(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for finding in findings:
        table.add_row(Text(finding.what, "bold"), Text(finding.found), Text(finding.means, "dim"))
    Console().print(table)


def _lines(findings: list[Finding]) -> None:
    for finding in findings:
        click.echo(f"{finding.what}: {finding.found}" + f" ({finding.means})" * bool(finding.means))
