"""The calls about the states and figures of domains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvmxen.config.disk import DiskSpec, device_number
from kvmxen.config.net import generate_mac
from kvmxen.domain.description import Description
from kvmxen.domain.record import Record
from kvmxen.domain.state import State
from kvmxen.errors import KvmxenError, UsageError
from kvmxen.front.libvirt.domain_calls import LIST_FLAGS, chosen, connected, found
from kvmxen.front.libvirt.host import Guest
from kvmxen.front.libvirt.session import Key, Session
from kvmxen.front.libvirt.wire import (
    P_INT,
    P_UINT,
    Code,
    Failure,
    Parameter,
    parameter,
)

# virDomainState, with the reason.
_RUNNING, _PAUSED, _SHUTOFF, _CRASHED = 1, 3, 5, 6
_STATES = {State.RUNNING: (_RUNNING, 1), State.PAUSED: (_PAUSED, 1), State.PRESERVED: (_CRASHED, 1)}
# virDomainShutoffReason, by the end of a Record.
_REASONS = {"poweroff": 1, "reboot": 1, "destroyed": 2, "crash": 3, "failed": 6}
# virDomainMemoryStatTags.
_AVAILABLE, _ACTUAL, _RSS = 5, 6, 7
# virDomainStatsTypes.
_S_STATE, _S_CPU, _S_BALLOON, _S_VCPU, _S_INTERFACE, _S_BLOCK = 1, 2, 4, 8, 16, 32
_MAXIMUM, _CONFIG = 4, 2

Figures = Mapping[str, Any]


def _state(told: Description | None, last: Record | None) -> tuple[int, int]:
    if told is None or told.state is State.ENDED:
        return _SHUTOFF, _REASONS.get(last.end, 0) if last else 0
    return _STATES[told.state]


def state(session: Session, key: Key, _flags: int) -> tuple[int, int]:
    """A domain's state, and the reason for it."""
    guest = found(session, key)
    return _state(session.host.describe(guest), session.host.last_end(guest))


def _cpu_ns(figures: Figures) -> dict[int, int]:
    """The CPU time of each vCPU, in ns."""
    return {
        int(name.partition("/")[2]): counts["cpu_ns"]
        for name, counts in figures.items()
        if name.startswith("vcpu/")
    }


def _figures(session: Session, guest: Guest) -> Figures:
    try:
        return session.host.connect(guest).stats()
    except (KvmxenError, Failure):
        return {}


def info(session: Session, key: Key) -> tuple[int, int, int, int, int]:
    """State, most and present memory in KiB, vCPUs, CPU time in ns."""
    guest = found(session, key)
    told = session.host.describe(guest)
    number, _ = _state(told, session.host.last_end(guest))
    if told is not None:
        config = told.config
        used = sum(_cpu_ns(_figures(session, guest)).values())
        return number, config.max_memory >> 10, told.memory >> 10, told.vcpus, used
    assert guest.definition is not None
    config = guest.definition.xml.config
    return number, config.max_memory >> 10, config.memory >> 10, config.vcpus, 0


def os_type(_session: Session, _key: Key) -> tuple[str]:
    """PV guests are of the type linux."""
    return ("linux",)


def max_memory(session: Session, key: Key) -> tuple[int]:
    """The most memory of a domain, in KiB."""
    return (info(session, key)[1],)


def max_vcpus(session: Session, key: Key) -> tuple[int]:
    """The most vCPUs of a domain."""
    return vcpu_count(session, key, _MAXIMUM)


def vcpu_count(session: Session, key: Key, flags: int) -> tuple[int]:
    """The present or the most vCPUs, of a domain's run or its definition."""
    guest = found(session, key)
    told = None if flags & _CONFIG else session.host.describe(guest)
    if told is not None:
        return (told.config.max_vcpus if flags & _MAXIMUM else told.vcpus,)
    if guest.definition is None:
        raise Failure(Code.INVALID_STATE, f"the domain {guest.name} is not defined")
    config = guest.definition.xml.config
    return (config.max_vcpus if flags & _MAXIMUM else config.vcpus,)


def vcpus(
    session: Session, key: Key, most: int, length: int
) -> tuple[list[tuple[int, int, int, int]], bytes]:
    """The vCPUs of a running domain: number, state, CPU time in ns, the host's CPU; their maps."""
    guest = found(session, key)
    session.host.connect(guest)
    used = _cpu_ns(_figures(session, guest))
    # Each may run on any of the host's processors, and on which it does is not told.
    rows = [(number, 1, ns, -1) for number, ns in sorted(used.items())][: max(most, 0)]
    return rows, b"\xff" * (len(rows) * max(min(length, 1024), 0))


def is_active(session: Session, key: Key) -> tuple[int]:
    """Whether a domain runs."""
    return (int(found(session, key).id != -1),)


def is_persistent(session: Session, key: Key) -> tuple[int]:
    """Whether a domain is defined."""
    return (int(found(session, key).definition is not None),)


def control_info(_session: Session, _key: Key, _flags: int) -> tuple[int, int, int]:
    """The domain's process can be asked."""
    return 0, 0, 0


def job_info(_session: Session, _key: Key) -> tuple[int, ...]:
    """No job is going on."""
    return (0,) * 12


def job_stats(_session: Session, _key: Key, _flags: int) -> tuple[int, list[Parameter]]:
    """No job is going on."""
    return 0, []


def memory_stats(
    session: Session, key: Key, most: int, _flags: int
) -> tuple[list[tuple[int, int]]]:
    """The memory of a running domain, in KiB."""
    domain = connected(session, key)
    told, figures = domain.describe(), domain.stats()
    stats = [
        (_ACTUAL, told.memory >> 10),
        (_AVAILABLE, told.config.max_memory >> 10),
        (_RSS, int(str(figures["max_rss_kib"]))),
    ]
    return (stats[:most],)


def _disk(told: Description, word: str) -> DiskSpec:
    """The disk that a client means by its name in the guest or by its file."""
    for disk in told.disks:
        if word in (disk.target, str(disk.path)):
            return disk
    try:
        number = device_number(word)
    except UsageError:
        number = -1
    for disk in told.disks:
        if disk.number == number:
            return disk
    raise Failure(Code.INVALID, f"the domain has no disk {word!r:.80}")


def block_stats(session: Session, key: Key, word: str) -> tuple[int, int, int, int, int]:
    """Reads and their bytes, writes and their bytes, errors, of a disk."""
    domain = connected(session, key)
    counts = domain.device_figures().get(f"vbd/{_disk(domain.describe(), word).number}", {})
    return (
        counts.get("reads", 0),
        counts.get("bytes_read", 0),
        counts.get("writes", 0),
        counts.get("bytes_written", 0),
        counts.get("errors", -1),
    )


def block_info(session: Session, key: Key, word: str, _flags: int) -> tuple[int, int, int]:
    """Allocation, capacity and size of a disk's file, in bytes."""
    guest = found(session, key)
    told = session.host.describe(guest)
    config = told or (guest.definition.xml.config if guest.definition else None)
    assert config is not None
    disk = next((d for d in config.disks if word in (d.target, str(d.path))), None)
    if disk is None:
        raise Failure(Code.INVALID, f"the domain has no disk {word!r:.80}")
    try:
        status = disk.path.stat()
    except OSError as error:
        raise Failure(Code.FAILED, f"cannot read {disk.path}: {error.strerror}") from None
    return status.st_blocks * 512, status.st_size, status.st_size


def interface_stats(session: Session, key: Key, word: str) -> tuple[int, ...]:
    """What a network interface, named by its tap device or its MAC address, did for the guest."""
    domain = connected(session, key)
    told = domain.describe()
    for one in told.interfaces:
        mac = one.spec.mac or generate_mac(told.config.name, one.number)
        if word in (one.spec.name, mac, f"vif{told.id}.{one.number}"):
            counts = domain.device_figures().get(f"vif/{one.number}", {})
            return _interface(counts)
    raise Failure(Code.INVALID, f"the domain has no interface {word!r:.80}")


def _interface(counts: Mapping[str, int]) -> tuple[int, ...]:
    return (
        counts.get("rx_bytes", 0),
        counts.get("rx_packets", 0),
        counts.get("rx_errors", 0),
        counts.get("rx_filtered", 0),
        counts.get("tx_bytes", 0),
        counts.get("tx_packets", 0),
        counts.get("tx_errors", 0),
        counts.get("tx_dropped", 0),
    )


def all_stats(
    session: Session, keys: list[Key], wanted: int, flags: int
) -> tuple[list[tuple[Key, list[Parameter]]]]:
    """The figures of some domains, or of those that `flags` ask for as in list_all."""
    guests = [found(session, key) for key in keys] if keys else chosen(session, flags & LIST_FLAGS)
    return ([(guest.key, _stats(session, guest, wanted or 0x3F)) for guest in guests],)


def _stats(session: Session, guest: Guest, wanted: int) -> list[Parameter]:
    told = session.host.describe(guest)
    number, reason = _state(told, session.host.last_end(guest))
    stats: list[Parameter] = []
    if wanted & _S_STATE:
        stats += [
            parameter("state.state", number, P_INT),
            parameter("state.reason", reason, P_INT),
        ]
    if told is None:
        return stats
    figures = _figures(session, guest)
    used = _cpu_ns(figures)
    if wanted & _S_CPU:
        stats.append(parameter("cpu.time", sum(used.values())))
    if wanted & _S_BALLOON:
        stats += [
            parameter("balloon.current", told.memory >> 10),
            parameter("balloon.maximum", told.config.max_memory >> 10),
        ]
    if wanted & _S_VCPU:
        stats += [
            parameter("vcpu.current", told.vcpus, P_UINT),
            parameter("vcpu.maximum", told.config.max_vcpus, P_UINT),
        ]
        for vcpu, ns in sorted(used.items()):
            stats += [
                parameter(f"vcpu.{vcpu}.state", 1, P_INT),
                parameter(f"vcpu.{vcpu}.time", ns),
            ]
    if wanted & _S_INTERFACE:
        stats += _interfaces(told, figures)
    if wanted & _S_BLOCK:
        stats += _blocks(told, figures)
    return stats


def _interfaces(told: Description, figures: Figures) -> list[Parameter]:
    stats = [parameter("net.count", len(told.interfaces), P_UINT)]
    names = (
        "rx.bytes",
        "rx.pkts",
        "rx.errs",
        "rx.drop",
        "tx.bytes",
        "tx.pkts",
        "tx.errs",
        "tx.drop",
    )
    for at, one in enumerate(told.interfaces):
        stats.append(parameter(f"net.{at}.name", one.spec.name or f"vif{told.id}.{one.number}"))
        counts = _interface(figures.get(f"vif/{one.number}", {}))
        stats += [parameter(f"net.{at}.{name}", n) for name, n in zip(names, counts, strict=True)]
    return stats


def _blocks(told: Description, figures: Figures) -> list[Parameter]:
    stats = [parameter("block.count", len(told.disks), P_UINT)]
    names = {
        "rd.reqs": "reads", "rd.bytes": "bytes_read", "wr.reqs": "writes",
        "wr.bytes": "bytes_written", "fl.reqs": "flushes",
    }  # fmt: skip
    for at, disk in enumerate(told.disks):
        counts = figures.get(f"vbd/{disk.number}", {})
        stats += [
            parameter(f"block.{at}.name", disk.target),
            parameter(f"block.{at}.path", str(disk.path)),
        ]
        stats += [
            parameter(f"block.{at}.{name}", counts.get(key, 0)) for name, key in names.items()
        ]
    return stats
