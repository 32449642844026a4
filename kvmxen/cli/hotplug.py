"""kvmxen block-attach, network-attach and the two detaches: devices of a running domain."""

from __future__ import annotations

from typing import Any

import click

from kvmxen.errors import KvmxenError

_FORCE = click.option(
    "--force", is_flag=True, help="Take it away without asking the guest, which may lose data."
)


def _ask(name: str, command: str, *arguments: str) -> Any:
    # --help waits for none of this.
    from kvmxen.control.client import ask
    from kvmxen.rundir import runtime_root

    return ask(runtime_root(), name, command, *arguments)


def _detach(name: str, command: str, device: str, force: bool) -> None:
    if not _ask(name, command, device, *(["force"] if force else [])):
        raise KvmxenError(
            f"the guest still uses {device}: it goes when the guest lets go of it, "
            "or at once with --force"
        )


@click.command("block-attach", short_help="Give a running domain one more disk.")
@click.argument("name")
@click.argument("disk", metavar="FILE[,KEY=VALUE]...")
def block_attach(name: str, disk: str) -> None:
    """Give the running domain NAME a disk, as boot's --disk does, and print what it is called."""
    click.echo(_ask(name, "block-attach", disk))


@click.command("block-detach", short_help="Take a disk from a running domain.")
@click.argument("name")
@click.argument("device")
@_FORCE
def block_detach(name: str, device: str, force: bool) -> None:
    """Have the running domain NAME let go of DEVICE, a disk such as xvdb."""
    _detach(name, "block-detach", device, force)


@click.command("network-attach", short_help="Give a running domain one more network interface.")
@click.argument("name")
@click.argument("net")
def network_attach(name: str, net: str) -> None:
    """Give the running domain NAME an interface, as boot's --net does, and print its number."""
    click.echo(_ask(name, "network-attach", net))


@click.command("network-detach", short_help="Take a network interface from a running domain.")
@click.argument("name")
@click.argument("number")
@_FORCE
def network_detach(name: str, number: str, force: bool) -> None:
    """Have the running domain NAME let go of its interface NUMBER, 0 for the first."""
    _detach(name, "network-detach", number, force)


COMMANDS = (block_attach, block_detach, network_attach, network_detach)
