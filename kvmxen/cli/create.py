"""kvmxen create: starts a domain from one of xl's configuration files."""

from __future__ import annotations

import json
from pathlib import Path

import click

from kvmxen.streams import say


@click.command()
@click.argument("file", type=Path)
@click.argument("more", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("-c", "--console", is_flag=True, help="Go to the console of the domain.")
@click.option("-p", "--paused", is_flag=True, help="Pause the guest before its first instruction.")
@click.option("-F", "--foreground", is_flag=True, help="Do not go into the background.")
@click.option("-n", "--dryrun", is_flag=True, help="Print what was read, as JSON; start nothing.")
@click.option("-q", "--quiet", is_flag=True, help="Print no warnings.")
@click.option("-v", "--verbose", is_flag=True, help="Tell which settings mean nothing here.")
def create(
    file: Path,
    more: tuple[str, ...],
    console: bool,
    paused: bool,
    foreground: bool,
    dryrun: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Start the domain that FILE describes, in the format of xl.cfg(5), in the background.

    Each KEY=VALUE follows the file's lines: memory=512, or 'disk=["a.img,raw,xvda,rw"]'. A vif
    without bridge or vifname is a network by passt, as boot's --net user.
    """
    from kvmxen.config.readers.xl import read_file

    reading = read_file(file, more)
    for sentence in () if quiet else reading.warnings:
        say(sentence)
    for sentence in reading.notes if verbose else ():
        say(sentence)
    config = reading.config
    if dryrun:
        from kvmxen.config.readers.xl_json import as_json

        click.echo(json.dumps(as_json(config), indent=4))
        return 0
    if foreground:
        from dataclasses import replace

        from kvmxen.cli.foreground import boot
        from kvmxen.config.console import ConsoleSpec

        return boot(replace(config, console=ConsoleSpec("stdio")), paused=paused)
    from kvmxen.domain.spawn import spawn

    spawn(config, paused=paused or console)
    if console:
        from kvmxen.cli.console import attach
        from kvmxen.domain.remote import connect

        domain = connect(config.name)
        stream = domain.open_console()
        if not paused:
            domain.unpause()
        attach(stream, config.name)
    return 0
