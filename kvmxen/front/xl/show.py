"""The commands of xl that only print, in the forms that scripts read."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click

from kvmxen.config.readers.xl_json import as_json
from kvmxen.domain.targets import node, store
from kvmxen.errors import KvmxenError
from kvmxen.front.xl.guests import DOM0, Guest, guest, guests, host_figures
from kvmxen.xenstore.errors import XenstoreError
from kvmxen.xenstore.server.client import Client


@click.command("list")
@click.argument("domain", required=False)
@click.option("-l", "--long", "as_json_", is_flag=True)
@click.option("-v", "--verbose", is_flag=True)
def list_(domain: str | None, as_json_: bool, verbose: bool) -> None:
    """List the domains."""
    shown = [guest(domain)] if domain not in (None, DOM0, "0") else []
    shown = shown if domain else guests()
    with_host = domain in (None, DOM0, "0")
    if as_json_:
        found = [_host_long()] if with_host else []
        found += [_long(one) for one in shown if one.told]
        click.echo(json.dumps(found, indent=4))
        return
    more = "   UUID                            Reason-Code\tSecurity Label" if verbose else ""
    click.echo(f"Name                                        ID   Mem VCPUs\tState\tTime(s){more}")
    if with_host:
        # Each domain has its dom0 in its own process; for scripts, the host is Domain-0. It has
        # what is neither free nor a guest's, as programs add these up to the host's memory.
        host = host_figures()
        guests_have = sum(one.memory for one in guests())
        kept = max(host["memory"] - host["free"] - guests_have, 0)
        _row(DOM0, 0, kept, host["cpus"], "r-----", host["time"], verbose, _NO_UUID)
    for one in shown:
        # xl counts the vCPUs that are up.
        _row(
            one.name,
            one.id,
            one.memory,
            len(one.cpus),
            one.state,
            sum(one.cpus.values()),
            verbose,
            one.uuid,
        )


_NO_UUID = "00000000-0000-0000-0000-000000000000"


def _row(
    name: str,
    number: int,
    memory: int,
    vcpus: int,
    state: str,
    seconds: float,
    verbose: bool,
    uuid: str,
) -> None:
    more = f" {uuid} {'-':>8} {'-':>16}" if verbose else ""
    click.echo(f"{name:<40} {number:5} {memory:5} {vcpus:5}     {state}  {seconds:8.1f}{more}")


def _long(one: Guest) -> dict[str, object]:
    assert one.told is not None
    nets = tuple(interface.spec for interface in one.told.interfaces)
    config = replace(one.told.config, uuid=one.told.uuid, disks=one.told.disks, nets=nets)
    return {"domid": one.id, "config": as_json(config)}


def _host_long() -> dict[str, object]:
    created = {"type": "pv", "name": DOM0, "uuid": _NO_UUID}
    return {"domid": 0, "config": {"c_info": created}}


@click.command()
@click.argument("name")
def domid(name: str) -> None:
    """Print the id of the domain NAME."""
    click.echo(0 if name == DOM0 else guest(name).id)


@click.command()
@click.argument("number", metavar="ID", type=click.IntRange(0))
def domname(number: int) -> None:
    """Print the name of the domain ID."""
    names = {0: DOM0} | {one.id: one.name for one in guests()}
    if number not in names:
        raise KvmxenError(f"no domain has the id {number} (see xl list)")
    click.echo(names[number])


@click.command("vm-list")
def vm_list() -> None:
    """List the UUIDs, ids and names of domains."""
    click.echo("UUID                                  ID    name")
    for one in guests():
        click.echo(f"{one.uuid}  {one.id}    {one.name:<30}")


@click.command("vcpu-list")
@click.argument("domains", metavar="[DOMAIN]...", nargs=-1)
def vcpu_list(domains: tuple[str, ...]) -> None:
    """List the vCPUs of domains."""
    heading = ("Name", "ID", "VCPU", "CPU", "State", "Time(s)")
    click.echo("{:<32} {:>5} {:>5} {:>5} {:>5} {:>9}".format(*heading) + " Affinity (Hard / Soft)")
    for one in map(guest, domains) if domains else guests():
        letter = "p" if one.state == "--p---" else "-"
        for number in range(one.told.config.max_vcpus if one.told else 0):
            seconds = one.cpus.get(number)
            # No vCPU is bound to a CPU of the host: its threads run where the kernel lets them.
            state = "--p" if seconds is None else f"r-{letter}"
            click.echo(
                f"{one.name:<32} {one.id:5} {number:5} {'-':>5} {state:>5} {seconds or 0:9.1f}  "
                "all / all"
            )


@click.command()
@click.argument("domains", metavar="[DOMAIN]...", nargs=-1)
@click.option("-s", "--short", is_flag=True)
def uptime(domains: tuple[str, ...], short: bool) -> None:
    """Print how long domains have been running."""
    rows = [(one.name, one.id, one.began) for one in (map(guest, domains) if domains else guests())]
    if not domains:
        rows.insert(0, (DOM0, 0, host_figures()["began"]))
    if not short:
        click.echo(f"{'Name':<33} {'ID':>4} Uptime")
    for name, number, began in rows:
        days, seconds = divmod(int(max(time.time() - began, 0)), 86400)
        said = f"{days} day{'s' if days > 1 else ''}, " if days else ""
        said += f"{seconds // 3600:2}:{seconds // 60 % 60:02}"
        if short:
            click.echo(f" {time.strftime('%H:%M:%S')} up {said}, {name} ({number})")
        else:
            click.echo(f"{name:<33} {number:4} {said}:{seconds % 60:02}")


@click.command()
def info() -> None:
    """Print what this host has."""
    for key, value in _info():
        click.echo(f"{key:<23}: {value}")


def _info() -> Iterator[tuple[str, object]]:
    from kvmxen.xen.abi.xen import XEN_VERSION
    from kvmxen.xen.hypercalls.version import CAPABILITIES, EXTRAVERSION

    major, minor, extra = XEN_VERSION >> 16, XEN_VERSION & 0xFFFF, EXTRAVERSION.decode()

    system, host = platform.uname(), host_figures()
    cpus = Path("/sys/devices/system/cpu/cpu0/topology")
    threads = _listed(cpus / "thread_siblings_list")
    yield "host", system.node
    yield "release", system.release
    yield "version", system.version
    yield "machine", system.machine
    yield "nr_cpus", host["cpus"]
    yield "max_cpu_id", host["cpus"] - 1
    yield "nr_nodes", _listed(Path("/sys/devices/system/node/online"))
    yield "cores_per_socket", max(_listed(cpus / "core_siblings_list") // threads, 1)
    yield "threads_per_core", threads
    yield "total_memory", host["memory"]
    yield "free_memory", host["free"]
    yield "free_cpus", 0
    yield "xen_major", major
    yield "xen_minor", minor
    yield "xen_extra", extra
    yield "xen_version", f"{major}.{minor}{extra}"
    yield "xen_caps", CAPABILITIES.decode()
    yield "xen_pagesize", os.sysconf("SC_PAGE_SIZE")


def _listed(path: Path) -> int:
    """How many numbers the kernel's list has: 4 of 0-2,7; 1 if there is none."""
    try:
        ranges = [part.partition("-") for part in path.read_text().strip().split(",")]
    except OSError:
        return 1
    return sum(int(last or first) - int(first) + 1 for first, _, last in ranges)


@click.command("block-list")
@click.argument("domains", metavar="DOMAIN...", nargs=-1, required=True)
def block_list(domains: tuple[str, ...]) -> None:
    """List the disks of domains."""
    click.echo(f"{'Vdev':<5} {'BE':<3} {'handle':<6} {'state':<5} {'evt-ch':<6} {'ring-ref':<8} "
               f"{'BE-path':<30}")  # fmt: skip
    for word in domains:
        one = guest(word)
        with store(one.name) as client:
            for number in _devices(client, "vbd"):
                at = node(f"device/vbd/{number}")
                leaves = ("state", "event-channel", "ring-ref")
                state, port, ring = (_number(client, f"{at}/{leaf}") for leaf in leaves)
                click.echo(
                    f"{number:<5} {0:<3} {one.id:<6} {state:<5} {port:<6} {ring:<8} "
                    f"{_text(client, f'{at}/backend'):<30}"
                )


@click.command("network-list")
@click.argument("domains", metavar="DOMAIN...", nargs=-1, required=True)
def network_list(domains: tuple[str, ...]) -> None:
    """List the network interfaces of domains."""
    click.echo(f"{'Idx':<3} {'BE':<2} {'Mac Addr.':<17} {'handle':<6} {'state':<5} {'evt-ch':<6} "
               f"{'tx-':>5}/{'rx-ring-ref':<5} {'BE-path':<30}")  # fmt: skip
    for word in domains:
        with store(guest(word).name) as client:
            for number in _devices(client, "vif"):
                at = node(f"device/vif/{number}")
                state, port, tx, rx = (
                    _number(client, f"{at}/{leaf}")
                    for leaf in ("state", "event-channel", "tx-ring-ref", "rx-ring-ref")
                )
                click.echo(
                    f"{number:<3} {0:<2} {_text(client, f'{at}/mac'):<17} {number:6} {state:5} "
                    f"{port:6} {tx:5}/{rx:<11} {_text(client, f'{at}/backend'):<30}"
                )


def _devices(client: Client, kind: str) -> list[int]:
    try:
        names = client.directory(node(f"device/{kind}"))
    except XenstoreError:
        return []
    return sorted(int(name) for name in names if name.isdecimal())


def _text(client: Client, path: str) -> str:
    """What a node has; the guest may have written anything there, or nothing."""
    try:
        value = client.read(path).decode("ascii", "replace")
    except XenstoreError:
        return ""
    return value if value.isprintable() else ascii(value)


def _number(client: Client, path: str) -> int:
    """The same, as a number; -1 as in xl if it is none."""
    text = _text(client, path)
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1
