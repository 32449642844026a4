"""The commands of xl that change domains."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import click

from kvmxen.backends.terminal import ConsoleStream
from kvmxen.domain.events import Event
from kvmxen.domain.remote import RemoteDomain
from kvmxen.domain.targets import ask_for_memory, ask_for_vcpus, node, store
from kvmxen.errors import KvmxenError, UsageError
from kvmxen.front.xl.guests import guests, remote
from kvmxen.streams import say, tell

# Connects this process's terminal with the console of the domain of that name.
Attach = Callable[[ConsoleStream, str], None]
_SIZE = re.compile(r"([0-9]{1,15})([bkmgt]?)", re.IGNORECASE | re.ASCII)
_SHIFT = {"b": 0, "k": 10, "": 20, "m": 20, "g": 30, "t": 40}


@click.command()
@click.argument("words", metavar="[FILE] [KEY=VALUE]...", nargs=-1)
@click.option("-f", "--defconfig", type=Path, metavar="FILE")
@click.option("-c", "console", is_flag=True, help="Go to the console.")
@click.option("-p", "paused", is_flag=True, help="Leave the domain paused.")
@click.option("-F", "foreground", is_flag=True, help="Wait until the domain has ended.")
@click.option("-n", "--dryrun", is_flag=True, help="Print what was read.")
@click.option("-q", "--quiet", is_flag=True)
@click.option("-e", "unattended", is_flag=True, help="Accepted: every domain is on its own.")
@click.option("-d", "debug", is_flag=True, help="Say which settings mean nothing here.")
@click.pass_obj
def create(
    attach: Attach,
    words: tuple[str, ...],
    defconfig: Path | None,
    console: bool,
    paused: bool,
    foreground: bool,
    dryrun: bool,
    quiet: bool,
    unattended: bool,
    debug: bool,
) -> None:
    """Start the domain that FILE describes."""
    from kvmxen.config.readers.xl import read_file
    from kvmxen.config.readers.xl_json import as_json
    from kvmxen.domain.spawn import spawn

    settings = list(words)
    if settings and "=" not in settings[0]:
        defconfig = Path(settings.pop(0))
    if defconfig is None:
        raise UsageError("give the file that describes the domain")
    if not quiet:
        tell(f"Parsing config from {defconfig}")
    reading = read_file(defconfig, settings)
    for sentence in (() if quiet else reading.warnings) + (reading.notes if debug else ()):
        say(sentence)
    if dryrun:
        # xl makes a UUID up, and scripts look for the comma before it.
        config = replace(reading.config, uuid=reading.config.uuid or uuid4())
        click.echo(json.dumps(as_json(config), indent=4))
        return
    attended = console or foreground
    spawn(reading.config, paused=paused or attended)
    if not attended:
        return
    domain = RemoteDomain(reading.config.name)
    stream = domain.open_console() if console else None
    if not paused:
        domain.unpause()
    if stream:
        attach(stream, domain.name)
    else:
        domain.wait()


@click.command()
@click.argument("domain")
@click.option("-t", "kind", type=click.Choice(["pv"]), default="pv")
@click.option("-n", "number", type=click.IntRange(0, 0), default=0)
@click.pass_obj
def console(attach: Attach, domain: str, kind: str, number: int) -> None:
    """Go to the console of DOMAIN; Ctrl-] leaves it."""
    one = remote(domain)
    attach(one.open_console(), one.name)


def _chosen(domains: tuple[str, ...], everyone: bool) -> list[RemoteDomain]:
    if bool(domains) == everyone:
        raise UsageError("give domains, or -a for all of them")
    return [remote(word) for word in domains] if domains else [remote(one.name) for one in guests()]


def _ask(verb: str, domain: RemoteDomain, ask: Callable[[], bool]) -> None:
    tell(f"{verb} domain {domain.describe().id}")
    if not ask():
        raise KvmxenError(f"the domain {domain.name} has no guest to ask: destroy it")


_EVERYONE = click.option("-a", "--all", "everyone", is_flag=True)
_FALLBACK = click.option("-F", "fallback", is_flag=True, help="Accepted: it is for HVM guests.")


@click.command()
@click.argument("domains", metavar="[DOMAIN]...", nargs=-1)
@_EVERYONE
@click.option("-w", "--wait", is_flag=True, help="Wait until they have ended.")
@_FALLBACK
def shutdown(domains: tuple[str, ...], everyone: bool, wait: bool, fallback: bool) -> None:
    """Ask guests to power off."""
    asked = _chosen(domains, everyone)
    for domain in asked:
        _ask("Shutting down", domain, domain.shutdown)
    for domain in asked if wait else ():
        domain.wait()


@click.command()
@click.argument("domains", metavar="[DOMAIN]...", nargs=-1)
@_EVERYONE
@click.option("-w", "--wait", is_flag=True, help="Wait until they have shut down for it.")
@_FALLBACK
def reboot(domains: tuple[str, ...], everyone: bool, wait: bool, fallback: bool) -> None:
    """Ask guests to reboot."""
    asked = _chosen(domains, everyone)
    streams = [domain.events() for domain in asked]
    for domain in asked:
        _ask("Rebooting", domain, domain.reboot)
    for stream in streams if wait else ():
        stream.wait((Event.REBOOTED, Event.PRESERVED, Event.ENDED))


@click.command()
@click.argument("domain")
@click.option("-f", "force", is_flag=True, help="Accepted: it is for Domain-0.")
def destroy(domain: str, force: bool) -> None:
    """End DOMAIN at once."""
    one = remote(domain)
    one.destroy()
    one.wait()


@click.command()
@click.argument("domain")
def pause(domain: str) -> None:
    """Stop the vCPUs of DOMAIN."""
    remote(domain).pause()


@click.command()
@click.argument("domain")
def unpause(domain: str) -> None:
    """Let them run again."""
    remote(domain).unpause()


@click.command()
@click.argument("domain")
@click.argument("letter")
def sysrq(domain: str, letter: str) -> None:
    """Press a magic SysRq key in the Linux guest of DOMAIN."""
    remote(domain).sysrq(letter)


@click.command()
@click.argument("domain")
@click.argument("what", metavar="nmi", type=click.Choice(["nmi"]))
@click.argument("vcpu", type=click.IntRange(0, 0), default=0)
def trigger(domain: str, what: str, vcpu: int) -> None:
    """Send vCPU 0 of DOMAIN a non-maskable interrupt."""
    remote(domain).nmi()


@click.command("mem-set")
@click.argument("domain")
@click.argument("size")
def mem_set(domain: str, size: str) -> None:
    """Have the guest of DOMAIN grow or shrink to SIZE, a number of MiB or with b, k, m, g or t."""
    match = _SIZE.fullmatch(size)
    if match is None:
        raise UsageError(f"{size!r:.60} is not an amount of memory: give a number such as 512m")
    amount = int(match[1]) << _SHIFT[match[2].lower()]
    ask_for_memory(remote(domain).describe(), amount)


@click.command("vcpu-set")
@click.argument("domain")
@click.argument("count", type=click.IntRange(1))
@click.option("-i", "--ignore-host", is_flag=True, help="Accepted: there may be more than CPUs.")
def vcpu_set(domain: str, count: int, ignore_host: bool) -> None:
    """Have the guest of DOMAIN use COUNT vCPUs."""
    ask_for_vcpus(remote(domain).describe(), count)


@click.command("block-attach")
@click.argument("domain")
@click.argument("disk", nargs=-1, required=True)
def block_attach(domain: str, disk: tuple[str, ...]) -> None:
    """Attach a DISK, written as in xl.cfg; its parts may be words of their own."""
    from kvmxen.config.readers.xl_disk import read_disk

    remote(domain).attach_disk(read_disk(",".join(disk)))


@click.command("block-detach")
@click.argument("domain")
@click.argument("device")
@click.option("-f", "--force", is_flag=True, help="Do not ask the guest.")
def block_detach(domain: str, device: str, force: bool) -> None:
    """Detach DEVICE, such as xvdb or its number."""
    one = remote(domain)
    for disk in one.describe().disks:
        if device in (disk.target, str(disk.number)):
            _gone(one.detach_disk(disk.target, force=force), device)
            return
    raise KvmxenError(f"{one.name} has no disk {device} (see xl block-list)")


@click.command("network-attach")
@click.argument("domain")
@click.argument("settings", metavar="[KEY=VALUE]...", nargs=-1)
def network_attach(domain: str, settings: tuple[str, ...]) -> None:
    """Attach an interface, its settings as in a vif of xl.cfg."""
    from kvmxen.config.readers.xl import read_vif

    remote(domain).attach_net(read_vif(",".join(settings)))


@click.command("network-detach")
@click.argument("domain")
@click.argument("device", metavar="NUMBER|MAC")
@click.option("--force", is_flag=True, help="Do not ask the guest.")
def network_detach(domain: str, device: str, force: bool) -> None:
    """Detach an interface."""
    one = remote(domain)
    with store(one.name) as client:
        for interface in one.describe().interfaces:
            # An address that was not asked for is in the store alone.
            address = client.read(node(f"device/vif/{interface.number}/mac")).decode("latin-1")
            if device.lower() in (str(interface.number), address):
                _gone(one.detach_net(interface.number, force=force), device)
                return
    raise KvmxenError(f"{one.name} has no interface {device} (see xl network-list)")


def _gone(released: bool, device: str) -> None:
    if not released:
        raise KvmxenError(f"the guest still uses {device}: it goes when the guest releases it")
