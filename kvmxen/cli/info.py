"""kvmxen info: what a domain is and has, or how it ended."""

from __future__ import annotations

import json

import click

from kvmxen.cli.listing import Row, details, ended
from kvmxen.cli.named import domain, domain_name, name_of
from kvmxen.errors import KvmxenError


@click.command()
@domain_name
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def info(name: str, as_json: bool) -> None:
    """Tell what the domain NAME is and has; if it does not run, how it ended.

    Memory is in MiB, times are in seconds.
    """
    facts = _facts(name)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for key, value in facts.items():
        for one in value if isinstance(value, list) else [value]:
            words = one.values() if isinstance(one, dict) else [one]
            # A crash report has several lines.
            for line in " ".join(map(str, words)).splitlines() or [""]:
                click.echo(f"{key:12} {line}".rstrip())


def _facts(word: str) -> Row:
    try:
        found = domain(word)
    except KvmxenError:
        name = name_of(word)
        for row in ended():
            if name in (row["name"], row["uuid"], str(row["id"])):
                return row
        raise
    told = found.describe()
    config = told.config
    row = {"name": found.name, "id": told.id, "uuid": str(told.uuid), "pid": told.pid}
    row |= {"began": told.began, **details(found)}
    return row | {
        "ramdisk": str(config.ramdisk or ""),
        "cmdline": config.cmdline,
        "max_memory": config.max_memory >> 20,
        "max_vcpus": config.max_vcpus,
        "on_poweroff": config.on_poweroff,
        "on_reboot": config.on_reboot,
        "on_crash": config.on_crash,
        "console": told.console or config.console.kind,
    }
