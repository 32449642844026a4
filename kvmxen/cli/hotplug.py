"""kvmxen block-attach, block-resize and the like: devices of a running domain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kvmxen.cli.named import domain_name, name_of
from kvmxen.config.disk import DiskSpec, device_number
from kvmxen.config.net import NetSpec
from kvmxen.errors import KvmxenError, UsageError

if TYPE_CHECKING:
    from kvmxen.domain.control.requests import BlockDetach, NetworkDetach, Request

_FORCE = click.option(
    "--force", is_flag=True, help="Remove it without asking the guest; data may be lost."
)


def _ask(name: str, request: Request) -> Any:
    # Imported here: --help should not pay for it.
    from kvmxen.domain.control.client import ask
    from kvmxen.domain.rundir import runtime_root

    return ask(runtime_root(), name_of(name), request)


def _detach(name: str, request: BlockDetach | NetworkDetach, device: str) -> None:
    if not _ask(name, request):
        raise KvmxenError(
            f"the guest still uses {device}: it is removed when the guest releases it, "
            "or at once with --force"
        )


@click.command("block-attach")
@domain_name
@click.argument("disk", metavar="FILE[,KEY=VALUE]...")
def block_attach(name: str, disk: str) -> None:
    """Attach a disk, written as for boot's --disk, to the running domain NAME; print its name."""
    from kvmxen.domain.control.requests import BlockAttach

    click.echo(_ask(name, BlockAttach(DiskSpec.parse(disk))))


@click.command("block-detach")
@domain_name
@click.argument("device")
@_FORCE
def block_detach(name: str, device: str, force: bool) -> None:
    """Detach DEVICE, a disk such as xvdb, from the running domain NAME."""
    from kvmxen.domain.control.requests import BlockDetach

    device_number(device)
    _detach(name, BlockDetach(device, force), device)


@click.command("block-resize")
@domain_name
@click.argument("device")
def block_resize(name: str, device: str) -> None:
    """Tell the running domain NAME how large the file of its disk DEVICE is now.

    A guest notices that by itself within seconds; this command makes it happen at once. Only raw
    disks can be resized, and they can only grow.
    """
    from kvmxen.domain.control.requests import BlockResize

    device_number(device)
    _ask(name, BlockResize(device))


@click.command("network-attach")
@domain_name
@click.argument("net")
def network_attach(name: str, net: str) -> None:
    """Attach an interface, written as for boot's --net, to the running domain NAME; print its
    number."""
    from kvmxen.domain.control.requests import NetworkAttach

    spec = NetSpec.parse(net)
    if spec is None:
        raise UsageError("nothing to attach: give user or tap")
    click.echo(_ask(name, NetworkAttach(spec)))


@click.command("network-detach")
@domain_name
@click.argument("number", type=click.IntRange(0, 0xFFFF))
@_FORCE
def network_detach(name: str, number: int, force: bool) -> None:
    """Detach the interface NUMBER, 0 for the first, from the running domain NAME."""
    from kvmxen.domain.control.requests import NetworkDetach

    _detach(name, NetworkDetach(number, force), f"network interface {number}")
