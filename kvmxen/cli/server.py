"""kvmxen server: for virsh and other clients of libvirt."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import click

from kvmxen.cli.readiness import tell_ready
from kvmxen.errors import UsageError


@click.command()
@click.option("--socket", type=Path, metavar="PATH", help="Listen there instead.")
@click.option("--stdio", is_flag=True, help="Serve one client, at standard input and output.")
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(0, min_open=True),
    help="End after that time without a client.",
)
def server(socket: Path | None, stdio: bool, timeout: float | None) -> None:
    """Serve libvirt's clients, such as virsh, by libvirt's own protocol.

    By default it listens where they look for the server of xen:///session, or as root of
    xen:///system. It holds nothing but definitions, in files: domains outlive it, and those that
    were started otherwise are shown as well.
    """
    from kvmxen.front.libvirt.host import Host
    from kvmxen.front.libvirt.server import default_socket, serve_socket, serve_stdio

    if stdio and (socket or timeout):
        raise UsageError("--stdio serves one client: it has no --socket and no --timeout")
    # A service manager's end is an orderly one; domains go on.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if stdio:
        serve_stdio(Host())
    else:
        serve_socket(Host(), socket or default_socket(), timeout, lambda: tell_ready(None))
