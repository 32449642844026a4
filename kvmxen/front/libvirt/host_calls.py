"""The calls about the connection and the host."""

from __future__ import annotations

import os
import platform
import socket
from pathlib import Path
from uuid import UUID, uuid5
from xml.etree import ElementTree

from kvmxen import __version__
from kvmxen.config.sizes import host_memory
from kvmxen.front.libvirt.session import Session
from kvmxen.front.libvirt.wire import Code, Failure
from kvmxen.kvm.layout import MAX_VCPUS

# VIR_DRV_FEATURE_*: callbacks of events, keepalive, callbacks with an id each, a close callback.
_FEATURES = {9, 10, 14, 15}
_NAMESPACE = UUID("0b0f2a51-8f7b-4d4b-9d55-7b9d1f2d6a10")


def auth_list(_session: Session) -> tuple[list[int]]:
    """No authentication: the socket's peer was checked."""
    return ([0],)


def supports_feature(_session: Session, feature: int) -> tuple[int]:
    """Whether the server knows a feature of the protocol."""
    return (int(feature in _FEATURES),)


def nothing(_session: Session, *_: object) -> tuple[()]:
    """Agree, and do nothing."""
    return ()


def get_type(_session: Session) -> tuple[str]:
    """The driver's name, by which tools know what kind of guests there are."""
    return ("Xen",)


def version(_session: Session) -> tuple[int]:
    """Xen's version, as far as guests see it: 4.17."""
    return (4_017_000,)


def lib_version(_session: Session) -> tuple[int]:
    """The version of libvirt that the protocol is of."""
    return (9_000_000,)


def hostname(_session: Session) -> tuple[str]:
    """The host's name."""
    return (socket.gethostname(),)


def uri(_session: Session) -> tuple[str]:
    """The server's own URI."""
    return ("xen:///system" if os.geteuid() == 0 else "xen:///session",)


def is_secure(_session: Session) -> tuple[int]:
    """A Unix socket is."""
    return (1,)


def max_vcpus(_session: Session, _kind: str | None) -> tuple[int]:
    """The most vCPUs of a domain."""
    return (MAX_VCPUS,)


def node_info(_session: Session) -> tuple[str, int, int, int, int, int, int, int]:
    """The host's processors and memory."""
    cpus = os.cpu_count() or 1
    return platform.machine(), host_memory() >> 10, cpus, _mhz(), 1, 1, cpus, 1


def _mhz() -> int:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("cpu MHz"):
            return int(float(line.partition(":")[2]))
    return 0


def free_memory(_session: Session) -> tuple[int]:
    """The host's free memory in bytes."""
    return (_meminfo()["MemAvailable"] << 10,)


def memory_stats(
    _session: Session, count: int, _cell: int, _flags: int
) -> tuple[list[tuple[str, int]], int]:
    """The host's memory in KiB."""
    found = _meminfo()
    names = {"total": "MemTotal", "free": "MemFree", "buffers": "Buffers", "cached": "Cached"}
    stats = [(name, found[key]) for name, key in names.items()]
    return (stats if count else [], len(stats))


def cpu_stats(
    _session: Session, number: int, count: int, _flags: int
) -> tuple[list[tuple[str, int]], int]:
    """The host's CPU time in ns, of one processor or of all (-1)."""
    wanted = "cpu" if number < 0 else f"cpu{number}"
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name == wanted:
            user, nice, kernel, idle, iowait = (int(tick) * 10_000_000 for tick in ticks[:5])
            stats = [("kernel", kernel), ("user", user + nice), ("idle", idle), ("iowait", iowait)]
            return (stats if count else [], len(stats))
    raise Failure(Code.INVALID, f"the host has no CPU {number}")


def cpu_map(
    _session: Session, need_map: int, need_online: int, _flags: int
) -> tuple[bytes | None, int, int]:
    """Which of the host's processors are there: all are."""
    cpus = os.cpu_count() or 1
    bits = ((1 << cpus) - 1).to_bytes((cpus + 7) // 8, "little")
    return (bits if need_map else None), (cpus if need_online else 0), cpus


def host_uuid() -> UUID:
    """This host's UUID, the same at each start."""
    try:
        machine = Path("/etc/machine-id").read_text().strip()
    except OSError:
        machine = socket.gethostname()
    return uuid5(_NAMESPACE, machine)


def capabilities(_session: Session) -> tuple[str]:
    """What guests this host runs, as XML."""
    root = ElementTree.Element("capabilities")
    host = ElementTree.SubElement(root, "host")
    ElementTree.SubElement(host, "uuid").text = str(host_uuid())
    cpu = ElementTree.SubElement(host, "cpu")
    ElementTree.SubElement(cpu, "arch").text = "x86_64"
    guest = ElementTree.SubElement(root, "guest")
    ElementTree.SubElement(guest, "os_type").text = "xen"
    arch = ElementTree.SubElement(guest, "arch", name="x86_64")
    ElementTree.SubElement(arch, "wordsize").text = "64"
    ElementTree.SubElement(arch, "machine").text = "xenpv"
    ElementTree.SubElement(arch, "domain", type="xen")
    return (_text(root),)


def domain_capabilities(
    _session: Session,
    _emulator: str | None,
    _arch: str | None,
    _machine: str | None,
    _kind: str | None,
    _flags: int,
) -> tuple[str]:
    """What a domain can have, as XML."""
    root = ElementTree.Element("domainCapabilities")
    ElementTree.SubElement(root, "path").text = "kvmxen"
    ElementTree.SubElement(root, "domain").text = "xen"
    ElementTree.SubElement(root, "machine").text = "xenpv"
    ElementTree.SubElement(root, "arch").text = "x86_64"
    ElementTree.SubElement(root, "vcpu", max=str(MAX_VCPUS))
    ElementTree.SubElement(root, "os", supported="yes")
    devices = ElementTree.SubElement(root, "devices")
    disk = ElementTree.SubElement(devices, "disk", supported="yes")
    for name, values in (("diskDevice", ("disk", "cdrom")), ("bus", ("xen",))):
        enumeration = ElementTree.SubElement(disk, "enum", name=name)
        for value in values:
            ElementTree.SubElement(enumeration, "value").text = value
    for name in ("graphics", "video", "hostdev"):
        ElementTree.SubElement(devices, name, supported="no")
    return (_text(root),)


def sysinfo(_session: Session, _flags: int) -> tuple[str]:
    """The host's firmware tables, of which nothing is told."""
    root = ElementTree.Element("sysinfo", type="smbios")
    system = ElementTree.SubElement(root, "system")
    ElementTree.SubElement(system, "entry", name="product").text = f"kvmxen {__version__}"
    return (_text(root),)


def no_objects(_session: Session, *_: object) -> tuple[list[object], int]:
    """There are none of what is asked for: networks, interfaces, node devices, filters, secrets."""
    return [], 0


def none(_session: Session, *_: object) -> tuple[int]:
    """The number of what there is none of."""
    return (0,)


def no_network(_session: Session, name: object) -> tuple[()]:
    """No network is found."""
    raise Failure(Code.NO_NETWORK, f"there is no network {name!r:.80}")


def _meminfo() -> dict[str, int]:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return {line.partition(":")[0]: int(line.split()[1]) for line in lines}


def _text(root: ElementTree.Element) -> str:
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"
