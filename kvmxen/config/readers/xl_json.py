"""What was read of a configuration, as xl prints it (xl create -n)."""

from __future__ import annotations

from kvmxen.config.disk import DiskSpec
from kvmxen.config.domain import Config
from kvmxen.config.net import NetSpec


def as_json(config: Config) -> dict[str, object]:
    """The members of xl's JSON that a Config has."""
    build: dict[str, object] = {
        "max_vcpus": config.max_vcpus,
        "avail_vcpus": list(range(config.vcpus)),
        "max_memkb": config.max_memory >> 10,
        "target_memkb": config.memory >> 10,
    }
    if config.kernel is None:
        build["bootloader"] = config.bootloader
    else:
        build["kernel"] = str(config.kernel)
    if config.cmdline:
        build["cmdline"] = config.cmdline
    if config.ramdisk:
        build["ramdisk"] = str(config.ramdisk)
    created: dict[str, object] = {"type": "pv", "name": config.name}
    if config.uuid:
        created["uuid"] = str(config.uuid)
    found: dict[str, object] = {"c_info": created, "b_info": build}
    if config.disks:
        found["disks"] = [_disk(disk) for disk in config.disks]
    if config.nets:
        found["nics"] = [_nic(number, net) for number, net in enumerate(config.nets)]
    for key in ("on_poweroff", "on_reboot", "on_crash"):
        found[key] = getattr(config, key)
    return found


def _disk(disk: DiskSpec) -> dict[str, object]:
    found: dict[str, object] = {
        "pdev_path": str(disk.path),
        "vdev": disk.target,
        "format": disk.format,
        "readwrite": int(not disk.readonly),
    }
    if disk.cdrom:
        found |= {"removable": 1, "is_cdrom": 1}
    return found


def _nic(number: int, net: NetSpec) -> dict[str, object]:
    found: dict[str, object] = {"devid": number}
    if net.mac:
        found["mac"] = net.mac
    if net.bridge:
        found["bridge"] = net.bridge
    if net.name:
        found["ifname"] = net.name
    if net.rate:
        found["rate_bytes_per_interval"] = net.rate.size
        found["rate_interval_usecs"] = net.rate.usec
    return found
