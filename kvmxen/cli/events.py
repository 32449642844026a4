"""kvmxen events: a line for each change of a domain."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from kvmxen.cli.named import name_of, running_names

if TYPE_CHECKING:
    from kvmxen.domain.events import Happening
    from kvmxen.domain.record import Identity


@click.command()
@click.argument("name", required=False, shell_complete=running_names)
@click.option("--json", "as_json", is_flag=True, help="Print each line as a JSON object.")
def events(name: str | None, as_json: bool) -> None:
    """Print a line for each event of the domain NAME, until it ends; or of all, until Ctrl-C.

    The events are started, paused, unpaused, rebooted, preserved and ended; the last three say how
    the guest's run ended.
    """
    from kvmxen.domain.rundir import runtime_root
    from kvmxen.domain.watch import Watch

    wanted = name_of(name) if name is not None else None
    if wanted is not None:
        from kvmxen.domain.remote import connect

        connect(wanted)
    for identity, happening in Watch(runtime_root()):
        if wanted in (None, identity.name):
            click.echo(_line(identity, happening, as_json))
        if wanted == identity.name and happening.event.value == "ended":
            return


def _line(identity: Identity, happening: Happening, as_json: bool) -> str:
    told = {
        "at": happening.at,
        "name": identity.name,
        "id": identity.id,
        "uuid": str(identity.uuid),
        "event": happening.event.value,
        "end": happening.end,
        "reason": happening.reason,
    }
    if as_json:
        return json.dumps(told)
    import time

    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(happening.at))
    words = [at, identity.name, happening.event.value, happening.end, happening.reason]
    return " ".join(filter(None, words))
