"""kvmxen boot: turns the command line into a Config."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import click

from kvmxen.cli.hints import explained
from kvmxen.cli.readiness import tell_ready
from kvmxen.cli.stats import Kind, Stats
from kvmxen.cli.status import STATUSES
from kvmxen.config import Config, ConsoleSpec, DiskSpec
from kvmxen.config.cloud_init import CloudInit
from kvmxen.config.domain import Action, Bootloader
from kvmxen.config.net import NetSpec
from kvmxen.config.sizes import parse_size
from kvmxen.errors import UsageError

# The command line's names of a Config's fields.
FIELDS = {
    "kernel": "KERNEL",
    "bootloader": "--bootloader",
    "ramdisk": "--ramdisk",
    "shell": "--shell",
    "modules": "--modules",
    "cmdline": "--cmdline",
    "memory": "--memory",
    "vcpus": "--vcpus",
    "max_memory": "--maxmem",
    "max_vcpus": "--maxvcpus",
    "cloud_init": "--cloud-init",
}

# The fields of a Config that options have as they are.
_UNCHANGED = (
    "kernel",
    "bootloader",
    "ramdisk",
    "shell",
    "modules",
    "cmdline",
    "vcpus",
    "uuid",
    "on_poweroff",
    "on_reboot",
    "on_crash",
    "shim",
    "xenstore",
    "break_event_loops",
    "debug",
)


def _stats(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> tuple[Kind, Path | None] | None:
    if value is None:
        return None
    match value.partition(":"):
        case ("text" | "json") as kind, "", "":
            return kind, None
        case "json", ":", path if path:
            return "json", Path(path)
    raise click.BadParameter(f"{value!r} is neither json nor json:FILE", ctx, param)


def _seconds(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    if value is not None and not 0 < value < float("inf"):
        raise UsageError(f"{param.opts[0]} must be more than 0 seconds, not {value:g}")
    return value


def _action(option: str, default: Action, when: str) -> Callable[[Any], Any]:
    return click.option(
        option,
        type=click.Choice(get_args(Action)),
        default=default,
        show_default=True,
        help=f"What to do when the guest {when}.",
    )


def configured(options: Mapping[str, Any]) -> Config:
    """The Config of boot's options, by their names in Python; others are ignored.

    Raises UsageError.
    """
    maxmem, maxvcpus = options["maxmem"], options["maxvcpus"]
    cloud_init = options["cloud_init"]
    return Config(
        name=options["name"] or f"domain-{os.getpid()}",
        memory=parse_size(options["memory"]),
        max_memory=parse_size(maxmem) if maxmem is not None else 0,
        max_vcpus=maxvcpus if maxvcpus is not None else options["vcpus"],
        disks=tuple(map(DiskSpec.parse, options["disks"])),
        console=ConsoleSpec.parse(options["console"]),
        nets=tuple(spec for text in options["nets"] if (spec := NetSpec.parse(text))),
        cloud_init=CloudInit.parse(cloud_init) if cloud_init is not None else None,
        **{name: options[name] for name in _UNCHANGED},
    )


class _Command(click.Command):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # click would take the word after a bare --stats for its value.
        words = ["--stats=text" if word == "--stats" else word for word in args]
        try:
            return super().parse_args(ctx, list(words))
        except click.NoSuchOption as error:
            raise explained(error, words) from None


@click.command(cls=_Command, epilog=STATUSES)
@click.argument("kernel", required=False, type=Path)
@click.option(
    "--bootloader",
    type=click.Choice(get_args(Bootloader)),
    default="pvgrub",
    show_default=True,
    help="How the first disk's own system boots, without KERNEL: by GRUB in the guest, or by "
    "Xen's pygrub, which reads the disk on the host.",
)
@click.option("--ramdisk", metavar="FILE", type=Path, help="The guest's initial ramdisk.")
@click.option(
    "--shell",
    is_flag=True,
    help="Make an initial ramdisk with a shell, from this host's static busybox.",
)
@click.option(
    "--modules",
    metavar="DIR",
    type=Path,
    help="Where --shell looks for the kernel's modules.  [default: /lib/modules]",
)
@click.option("--cmdline", metavar="TEXT", default="", help="The kernel's command line.")
@click.option("--name", metavar="NAME", help="The domain's name.  [default: domain-PID]")
@click.option(
    "--memory",
    metavar="SIZE",
    default="512M",
    show_default=True,
    help="The guest's memory: a number with suffix K, M or G, or a number of MiB.",
)
@click.option(
    "--vcpus", metavar="N", type=int, default=1, show_default=True, help="Virtual CPUs, 1 to 64."
)
@click.option(
    "--maxmem", metavar="SIZE", help="How far the guest's memory may grow.  [default: --memory]"
)
@click.option(
    "--maxvcpus",
    metavar="N",
    type=int,
    help="How many virtual CPUs the guest may bring up.  [default: --vcpus]",
)
@click.option(
    "--disk",
    "disks",
    metavar="FILE[,KEY=VALUE]...",
    multiple=True,
    help="A disk: a file or block device; ro, target=xvda, format=raw|qcow2|vhd|vmdk|vhdx, "
    "backing=FILE|allow, key=FILE, devtype=cdrom, "
    "cache=writeback|writethrough|none|directsync|unsafe, no-discard, persistent, "
    "sector-size=512|4096. "
    "Repeatable. The syntax of xl works as well.",
)
@click.option(
    "--console",
    metavar="WHERE",
    default="stdio",
    show_default=True,
    help="stdio, pty, file:PATH or none.",
)
@click.option(
    "--net",
    "nets",
    metavar="NET",
    multiple=True,
    help="A network card: user (by passt), tap, tap=NAME or none, then ,bridge=BRIDGE ,mac=MAC "
    ",rate=10Mb/s, and for user ,forward=tcp:2222:22 ,host-loopback=no. Repeatable.",
)
@click.option(
    "--cloud-init",
    metavar="USER-DATA[,META-DATA]",
    help="A disk with these files for cloud-init in the guest.",
)
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=float,
    callback=_seconds,
    help="Destroy the guest after that time, counted from the start of the command.",
)
@click.option(
    "--shutdown-timeout",
    metavar="SECONDS",
    type=float,
    callback=_seconds,
    help="Destroy a guest that has not shut down that long after it was asked to.",
)
@_action("--on-poweroff", "destroy", "powers off")
@_action("--on-reboot", "restart", "reboots")
@_action("--on-crash", "destroy", "crashes")
@click.option(
    "--uuid", type=click.UUID, metavar="UUID", help="The domain's UUID.  [default: a random one]"
)
@click.option(
    "--stats",
    metavar="[=json[:FILE]]",
    callback=_stats,
    help="At the end, print statistics of the run on stderr, or write them to FILE as JSON.",
)
@click.option(
    "--result",
    metavar="FILE",
    type=Path,
    help="At the end, write how it ended to FILE: as JUnit XML if its name ends in .xml, else as "
    "JSON.",
)
@click.option(
    "--shim",
    type=click.Choice(["dispatch", "exits"]),
    default="dispatch",
    show_default=True,
    help="Handle hot hypercalls and traps in the guest, or all of them by exits to the host.",
)
@click.option(
    "--xenstore",
    metavar="FILE",
    type=Path,
    help="Keep the xenstore, except for the guest's own nodes, in FILE.",
)
@click.option(
    "--break-event-loops",
    is_flag=True,
    help="Slow down a guest that does nothing but handle events, so that it makes progress.",
)
@click.option(
    "--detach",
    is_flag=True,
    help="Run in the background: return when the guest has been started, and print its name.",
)
@click.option("--paused", is_flag=True, help="Pause the guest before its first instruction.")
@click.option(
    "--ready-fd",
    metavar="FD",
    type=click.IntRange(3),
    help="Write a newline to this descriptor when the guest has been started.",
)
@click.option("--debug", is_flag=True, help="Trace hypercalls and traps; implies --shim exits.")
def boot(
    timeout: float | None,
    shutdown_timeout: float | None,
    stats: tuple[Kind, Path | None] | None,
    result: Path | None,
    detach: bool,
    paused: bool,
    ready_fd: int | None,
    **options: Any,
) -> int:
    """Boot KERNEL (a bzImage or ELF file) as a Xen guest; without KERNEL, the demo guest."""
    config = configured(options)
    if detach:
        if stats:
            raise UsageError("--stats is for a domain in the foreground: see kvmxen top NAME")
        from kvmxen.domain.spawn import spawn

        spawn(config, paused=paused, timeout=timeout, patience=shutdown_timeout, result=result)
        click.echo(config.name)
        tell_ready(ready_fd)
        return 0
    from kvmxen.cli.foreground import boot

    return boot(
        config,
        timeout=timeout,
        patience=shutdown_timeout,
        stats=Stats(*stats) if stats else None,
        paused=paused,
        ready=lambda: tell_ready(ready_fd),
        result=result,
    )
