"""kvmxen block-attach, block-resize and their like: devices of a running domain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kvmxen.config.disk import DiskSpec, device_number
from kvmxen.config.net import NetSpec
from kvmxen.errors import KvmxenError, UsageError

if TYPE_CHECKING:
    from kvmxen.control.requests import BlockDetach, NetworkDetach, Request

_FORCE = click.option(
    "--force", is_flag=True, help="Take it away without asking the guest, which may lose data."
)


def _ask(name: str, request: Request) -> Any:
    # --help waits for none of this.
    from kvmxen.control.client import ask
    from kvmxen.rundir import runtime_root

    return ask(runtime_root(), name, request)


def _detach(name: str, request: BlockDetach | NetworkDetach, device: str) -> None:
    if not _ask(name, request):
        raise KvmxenError(
            f"the guest still uses {device}: it goes when the guest gives it up, "
            "or at once with --force"
        )


@click.command("block-attach", short_help="Give a running domain one more disk.")
@click.argument("name")
@click.argument("disk", metavar="FILE[,KEY=VALUE]...")
def block_attach(name: str, disk: str) -> None:
    """Give the running domain NAME a disk, as boot's --disk does, and print what it is called."""
    from kvmxen.control.requests import BlockAttach

    click.echo(_ask(name, BlockAttach(DiskSpec.parse(disk))))


@click.command("block-detach", short_help="Take a disk from a running domain.")
@click.argument("name")
@click.argument("device")
@_FORCE
def block_detach(name: str, device: str, force: bool) -> None:
    """Have the running domain NAME give up DEVICE, a disk such as xvdb."""
    from kvmxen.control.requests import BlockDetach

    device_number(device)
    _detach(name, BlockDetach(device, force), device)


@click.command("block-resize", short_help="Show a running domain that a disk has grown.")
@click.argument("name")
@click.argument("device")
def block_resize(name: str, device: str) -> None:
    """Have the running domain NAME see how large the file of its disk DEVICE is by now.

    It does so by itself within seconds; after this it has. A disk can only grow, and only a raw
    one.
    """
    from kvmxen.control.requests import BlockResize

    device_number(device)
    _ask(name, BlockResize(device))


@click.command("network-attach", short_help="Give a running domain one more network interface.")
@click.argument("name")
@click.argument("net")
def network_attach(name: str, net: str) -> None:
    """Give the running domain NAME an interface, as boot's --net does, and print its number."""
    from kvmxen.control.requests import NetworkAttach

    spec = NetSpec.parse(net)
    if spec is None:
        raise UsageError("there is nothing to attach: give user or tap")
    click.echo(_ask(name, NetworkAttach(spec)))


@click.command("network-detach", short_help="Take a network interface from a running domain.")
@click.argument("name")
@click.argument("number", type=click.IntRange(0, 0xFFFF))
@_FORCE
def network_detach(name: str, number: int, force: bool) -> None:
    """Have the running domain NAME give up its interface NUMBER, 0 for the first."""
    from kvmxen.control.requests import NetworkDetach

    _detach(name, NetworkDetach(number, force), f"network interface {number}")
