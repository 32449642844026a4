"""libvirt's domain XML: a Config from one, and back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args
from uuid import UUID
from xml.etree import ElementTree

from kvmxen.config.console import ConsoleSpec
from kvmxen.config.disk import CACHES, FORMATS, DiskSpec
from kvmxen.config.domain import Action, Bootloader, Config
from kvmxen.config.net import NetSpec
from kvmxen.config.readers.xml_node import Node, XmlError, parse
from kvmxen.errors import FieldError

_UNITS = {
    "b": 1, "bytes": 1, "KB": 1000, "k": 1 << 10, "KiB": 1 << 10, "": 1 << 10, "MB": 10**6,
    "M": 1 << 20, "MiB": 1 << 20, "GB": 10**9, "G": 1 << 30, "GiB": 1 << 30,
}  # fmt: skip
# What the elements of libvirt call fields of a Config.
_WORDS = {"memory": "currentMemory", "max_memory": "memory", "vcpus": "vcpu@current",
          "max_vcpus": "vcpu", "kernel": "os/kernel", "ramdisk": "os/initrd",
          "cmdline": "os/cmdline"}  # fmt: skip
# Devices that every PV guest has, or that libvirt's tools add without being asked.
_IMPLIED = ("emulator", "memballoon", "input")
_CONTROLLERS = ("xenbus", "usb", "pci", "ide", "scsi", "sata")


@dataclass(frozen=True)
class DomainXml:
    """A domain's XML: its Config, and what is kept for libvirt's tools alone.

    `metadata` is the element of that name, as text.
    """

    config: Config
    title: str = ""
    description: str = ""
    metadata: str = ""


def read(text: str) -> DomainXml:
    """Read a domain's XML.

    Raises XmlError, UnsupportedElement for what is not done, and UsageError for other values.
    """
    root = parse(text)
    if root.name != "domain":
        raise XmlError(f"the XML describes a {root.name:.40}, not a domain")
    root.one_of("type", ("xen",), "xen")
    root.ignore("@id")
    kernel, bootloader, ramdisk, cmdline = _boot(root)
    most = _memory(root, "memory")
    memory = _memory(root, "currentMemory") or most
    vcpus, max_vcpus = _vcpus(root)
    _features(root)
    _clock(root)
    uuid = root.value("uuid")
    title, description = root.value("title"), root.value("description")
    metadata = root.child("metadata")
    disks, nets, console = _devices(root)
    fields = {
        "name": root.value("name"),
        "uuid": _uuid(uuid) if uuid else None,
        "kernel": kernel,
        "bootloader": bootloader,
        "ramdisk": ramdisk,
        "cmdline": cmdline,
        "memory": memory,
        "max_memory": most,
        "vcpus": vcpus,
        "max_vcpus": max_vcpus,
        "disks": disks,
        "nets": nets,
        "console": console,
        "on_poweroff": _action(root, "on_poweroff", "destroy"),
        "on_reboot": _action(root, "on_reboot", "restart"),
        "on_crash": _action(root, "on_crash", "destroy"),
    }
    root.done()
    if not most:
        raise XmlError("the domain has no <memory>")
    try:
        config = Config(**fields)  # type: ignore[arg-type]
    except FieldError as error:
        raise XmlError(error.worded(_WORDS)) from None
    kept = ElementTree.tostring(metadata.element, encoding="unicode") if metadata else ""
    return DomainXml(config, title, description, kept)


def read_device(text: str) -> DiskSpec | NetSpec:
    """Read the XML of one device, as virsh attach-device has it; raises as read() does."""
    node = parse(text)
    match node.name:
        case "disk":
            return _disk(node)
        case "interface":
            return _interface(node)
    raise node.unsupported()


def _boot(root: Node) -> tuple[Path | None, Bootloader, Path | None, str]:
    bootloader = _bootloader(root)
    root.ignore("bootloader_args") if not root.value("bootloader_args") else None
    system = root.child("os")
    if system is None:
        return None, bootloader, None, ""
    kind = system.child("type")
    if kind is not None:
        kind.one_of("arch", ("x86_64",))
        kind.one_of("machine", ("xenpv",))
        kind.done()
        if kind.text not in ("linux", "xen"):
            raise kind.unsupported("", kind.text)
    # The order of boot devices is for guests with a firmware.
    system.ignore("boot")
    kernel, ramdisk = system.value("kernel"), system.value("initrd")
    cmdline = system.value("cmdline")
    system.done()
    return (
        _path(kernel, f"{system.path}/kernel") if kernel else None,
        Config.bootloader if kernel else bootloader,
        _path(ramdisk, f"{system.path}/initrd") if ramdisk else None,
        cmdline,
    )


def _bootloader(root: Node) -> Bootloader:
    text = root.value("bootloader")
    for bootloader in get_args(Bootloader):
        if not text or Path(text).name == bootloader:
            known: Bootloader = bootloader
            return known
    raise root.unsupported("bootloader", text)


def _path(text: str, where: str) -> Path:
    # The server's folder is no place that a client could mean.
    if not text.startswith("/"):
        raise XmlError(f"{where}: {text!r:.200} is not an absolute path")
    return Path(text)


def _memory(root: Node, name: str) -> int:
    """Bytes; 0 if there is no such element."""
    node = root.child(name)
    if node is None:
        return 0
    unit = node.one_of("unit", _UNITS)
    node.done()
    if not node.text.isdecimal() or len(node.text) > 18:
        raise XmlError(f"{node.path}: {node.text!r:.40} is not an amount of memory")
    return int(node.text) * _UNITS[unit] & ~0xFFF


def _vcpus(root: Node) -> tuple[int, int]:
    node = root.child("vcpu")
    if node is None:
        return 1, 1
    node.one_of("placement", ("static",))
    current = node.attribute("current") or node.text
    node.done()
    for text in (current, node.text):
        if not text.isdecimal() or len(text) > 6:
            raise XmlError(f"{node.path}: {text!r:.40} is not a number of vCPUs")
    return int(current), int(node.text)


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise XmlError(f"{text!r:.60} is not a UUID") from None


def _features(root: Node) -> None:
    if features := root.child("features"):
        # They mean nothing to a PV guest.
        features.ignore("acpi", "apic", "pae")
        features.done()


def _clock(root: Node) -> None:
    if clock := root.child("clock"):
        clock.one_of("offset", ("utc",))
        clock.ignore("@adjustment")
        for timer in clock.children("timer"):
            timer.one_of("name", ("tsc",))
            timer.one_of("mode", ("native",))
            timer.done()
        clock.done()


def _action(root: Node, name: str, default: Action) -> Action:
    text = root.value(name) or default
    for action in get_args(Action):
        if text == action:
            chosen: Action = action
            return chosen
    raise root.unsupported(name, text)


def _devices(root: Node) -> tuple[tuple[DiskSpec, ...], tuple[NetSpec, ...], ConsoleSpec]:
    disks: list[DiskSpec] = []
    nets: list[NetSpec] = []
    # Without an element, libvirt gives a PV guest this one.
    console = ConsoleSpec("pty")
    devices = root.child("devices")
    for node in devices.every_child() if devices else ():
        match node.name:
            case "disk" if _is_empty(node):
                # virt-install leaves the drive of a medium that it has taken out again.
                pass
            case "disk":
                disks.append(_disk(node))
            case "interface":
                nets.append(_interface(node))
            case "console" | "serial":
                console = _console(node)
            case "controller":
                node.one_of("type", _CONTROLLERS)
            case name if name not in _IMPLIED:
                raise node.unsupported()
    return tuple(disks), tuple(nets), console


def _is_empty(node: Node) -> bool:
    """Whether it is a CD-ROM drive without a medium, of which a PV guest has no use."""
    source = node.child("source")
    file = source and (source.attribute("file") or source.attribute("dev"))
    return node.attribute("device") == "cdrom" and not file


def _disk(node: Node) -> DiskSpec:
    kind = node.one_of("type", ("file", "block"), "file")
    device = node.one_of("device", ("disk", "cdrom"), "disk")
    node.ignore("alias", "address", "backingStore", "@model")
    source, target = node.child("source"), node.child("target")
    if source is None or target is None:
        raise XmlError(f"{node.path} needs a <source> and a <target>")
    path = source.attribute("file" if kind == "file" else "dev")
    source.ignore("@index", "@startupPolicy")
    source.done()
    target.one_of("bus", ("xen",))
    name = target.attribute("dev")
    target.ignore("@tray", "@removable")
    target.done()
    if not path or not name:
        raise XmlError(f"{node.path} needs a file and a name of the device in the guest")
    fields: dict[str, object] = {}
    if driver := node.child("driver"):
        driver.one_of("name", ("qemu", "file", "phy", "tap", "tap2"))
        fields["format"] = driver.one_of("type", FORMATS, "raw") or "raw"
        cache = driver.one_of("cache", (*CACHES, "default"))
        fields["cache"] = cache if cache in CACHES else "writeback"
        fields["discard"] = driver.one_of("discard", ("unmap", "ignore")) != "ignore"
        driver.done()
    readonly = node.child("readonly") is not None or device == "cdrom"
    node.done()
    return DiskSpec(
        path=_path(path, f"{node.path}/source"),
        target=name,
        readonly=readonly,
        cdrom=device == "cdrom",
        **fields,  # type: ignore[arg-type]
    )


def _interface(node: Node) -> NetSpec:
    kind = node.one_of("type", ("user", "bridge", "ethernet"))
    node.ignore("alias", "address", "model")
    spec = NetSpec("user" if kind == "user" else "tap")
    if mac := node.child("mac"):
        spec = replace(spec, mac=mac.attribute("address").lower())
        mac.done()
    source = node.child("source")
    if kind == "bridge":
        if source is None:
            raise XmlError(f"{node.path} needs a <source bridge=...>")
        spec = replace(spec, bridge=source.attribute("bridge"))
    if source is not None:
        source.done()
    if (target := node.child("target")) and kind != "user":
        spec = replace(spec, name=target.attribute("dev"))
        target.done()
    if script := node.child("script"):
        script.one_of("path", ("vif-bridge", "/etc/xen/scripts/vif-bridge"))
        script.done()
    node.done()
    return spec


def _console(node: Node) -> ConsoleSpec:
    kind = node.one_of("type", ("pty", "file"), "pty")
    node.ignore("@tty", "alias")
    if (target := node.child("target")) is not None:
        target.one_of("type", ("xen", "serial", "isa-serial", ""))
        target.one_of("port", ("0",))
        target.ignore("model")
        target.done()
    source = node.child("source")
    path = source.attribute("path") if source is not None else ""
    node.done()
    if kind == "pty":
        return ConsoleSpec("pty")
    if not path:
        raise XmlError(f"{node.path} needs a <source path=...>")
    return ConsoleSpec("file", _path(path, f"{node.path}/source"))


def write(domain: DomainXml, *, id: int = -1, console: str = "") -> str:  # noqa: A002
    """The XML of a domain; of a running one if `id` is not -1, whose terminal is `console`."""
    config = domain.config
    root = ElementTree.Element("domain", type="xen")
    if id != -1:
        root.set("id", str(id))
    _add(root, "name", config.name)
    if config.uuid:
        _add(root, "uuid", str(config.uuid))
    if domain.title:
        _add(root, "title", domain.title)
    if domain.description:
        _add(root, "description", domain.description)
    if domain.metadata:
        root.append(ElementTree.fromstring(domain.metadata))
    _add(root, "memory", str(config.max_memory >> 10), unit="KiB")
    _add(root, "currentMemory", str(config.memory >> 10), unit="KiB")
    current = {"current": str(config.vcpus)} if config.vcpus != config.max_vcpus else {}
    _add(root, "vcpu", str(config.max_vcpus), placement="static", **current)
    if config.kernel is None:
        _add(root, "bootloader", config.bootloader)
    system = _add(root, "os")
    _add(system, "type", "linux", arch="x86_64", machine="xenpv")
    for name, value in (
        ("kernel", config.kernel), ("initrd", config.ramdisk), ("cmdline", config.cmdline),
    ):  # fmt: skip
        if value:
            _add(system, name, str(value))
    _add(root, "clock", offset="utc", adjustment="reset")
    for name in ("on_poweroff", "on_reboot", "on_crash"):
        _add(root, name, getattr(config, name))
    devices = _add(root, "devices")
    for disk in config.disks:
        _write_disk(devices, disk)
    for net in config.nets:
        _write_interface(devices, net)
    _write_console(devices, config.console, console)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _add(
    parent: ElementTree.Element, tag: str, text: str | None = None, **attributes: str
) -> ElementTree.Element:
    element = ElementTree.SubElement(parent, tag, attributes)
    element.text = text
    return element


def _write_disk(devices: ElementTree.Element, disk: DiskSpec) -> None:
    device = "cdrom" if disk.cdrom else "disk"
    block = disk.path.is_block_device()
    element = _add(devices, "disk", type="block" if block else "file", device=device)
    driver = {"name": "qemu", "type": disk.format}
    if disk.cache != "writeback":
        driver["cache"] = disk.cache
    if not disk.discard:
        driver["discard"] = "ignore"
    _add(element, "driver", **driver)
    _add(element, "source", **{"dev" if block else "file": str(disk.path)})
    _add(element, "target", dev=disk.target, bus="xen")
    if disk.readonly:
        _add(element, "readonly")


def _write_interface(devices: ElementTree.Element, net: NetSpec) -> None:
    kind = "user" if net.kind == "user" else "bridge" if net.bridge else "ethernet"
    element = _add(devices, "interface", type=kind)
    if net.mac:
        _add(element, "mac", address=net.mac)
    if net.bridge:
        _add(element, "source", bridge=net.bridge)
    if net.name:
        _add(element, "target", dev=net.name)


def _write_console(devices: ElementTree.Element, spec: ConsoleSpec, path: str) -> None:
    if spec.kind == "file":
        element = _add(devices, "console", type="file")
        _add(element, "source", path=str(spec.path))
    else:
        element = _add(devices, "console", type="pty", **({"tty": path} if path else {}))
        if path:
            _add(element, "source", path=path)
    _add(element, "target", type="xen", port="0")
