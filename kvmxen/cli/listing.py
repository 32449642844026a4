"""kvmxen list: the domains that run, or how others ended."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from kvmxen.errors import KvmxenError

if TYPE_CHECKING:
    from kvmxen.domain.remote import RemoteDomain

Row = dict[str, object]


@click.command("list")
@click.option("-v", "--verbose", is_flag=True, help="Show the UUIDs and process IDs as well.")
@click.option("--ended", "past", is_flag=True, help="Show how the last domains of each name ended.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array, with all there is.")
def list_(verbose: bool, past: bool, as_json: bool) -> None:
    """List the running domains of this user, with their CPU times in seconds."""
    rows = list(ended() if past else _running())
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    names = ["name", "id", "at", "end", "reason"] if past else _COLUMNS
    if verbose:
        names = [*names, "uuid", "pid"]
    _print(names, rows)


_COLUMNS = ["name", "id", "state", "memory", "vcpus", "time"]


def _running() -> Iterable[Row]:
    from kvmxen.domain.remote import RemoteDomain
    from kvmxen.domain.rundir import running, runtime_root

    for identity in running(runtime_root()):
        row: Row = {"name": identity.name, "id": identity.id}
        row |= {"uuid": str(identity.uuid), "pid": identity.pid, "began": identity.began}
        try:
            row |= details(RemoteDomain(identity.name, patience=5.0))
        except KvmxenError:
            # It is being built or taken down.
            row |= {"state": "busy", "memory": 0, "vcpus": 0, "time": 0.0}
        yield row


def details(domain: RemoteDomain) -> Row:
    """What a running domain has at the moment."""
    told = domain.describe()
    stats = domain.stats()
    time = sum(
        figures["cpu_ns"]
        for name, figures in stats.items()
        if name.startswith("vcpu/") and isinstance(figures, dict)
    )
    return {
        "state": told.state.value,
        "memory": told.memory >> 20,
        "vcpus": told.vcpus,
        "time": round(time / 1e9, 1),
        "kernel": str(told.config.kernel or ""),
        "disks": [{"target": disk.target, "path": str(disk.path)} for disk in told.disks],
        "interfaces": [{"number": one.number, "kind": one.spec.kind} for one in told.interfaces],
    }


def ended() -> Iterable[Row]:
    """How the last domains of each name ended."""
    from kvmxen.domain.record import records
    from kvmxen.domain.rundir import running, runtime_root

    root = runtime_root()
    # Those that were killed have no record before somebody looks.
    running(root)
    for record in records(root):
        identity = record.domain
        yield {
            "name": identity.name,
            "id": identity.id,
            "uuid": str(identity.uuid),
            "pid": identity.pid,
            "began": identity.began,
            "at": record.at,
            "end": record.end,
            "reason": record.reason,
            "report": record.report,
        }


def _print(names: list[str], rows: list[Row]) -> None:
    import time

    def cell(row: Row, name: str) -> str:
        value = row[name]
        if name == "at" and isinstance(value, float):
            return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
        return str(value)

    lines = [[name.upper() for name in names]]
    lines += [[cell(row, name) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(map(str.ljust, line, widths)).rstrip())
