"""A Config as the words of `kvmxen boot`, which reads them itself."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from kvmxen.config.disk import DiskSpec
from kvmxen.config.domain import Config
from kvmxen.config.net import NetSpec
from kvmxen.config.sizes import MIB
from kvmxen.errors import UsageError

# The options whose values are those of the fields.
_SAME = {
    "bootloader": "--bootloader",
    "cmdline": "--cmdline",
    "uuid": "--uuid",
    "vcpus": "--vcpus",
    "max_vcpus": "--maxvcpus",
    "on_poweroff": "--on-poweroff",
    "on_reboot": "--on-reboot",
    "on_crash": "--on-crash",
    "shim": "--shim",
}
_PATHS = {"ramdisk": "--ramdisk", "modules": "--modules", "xenstore": "--xenstore"}
_FLAGS = {"shell": "--shell", "break_event_loops": "--break-event-loops", "debug": "--debug"}


def write(config: Config) -> str:
    """The shell command that boots `config`; raises UsageError if the options cannot say it."""
    return shlex.join(["kvmxen", "boot", *_words(config)]) + "\n"


def _words(config: Config) -> Iterator[str]:
    if config.kernel:
        yield str(config.kernel.absolute())
    yield f"--name={config.name}"
    yield f"--memory={_size(config.memory)}"
    if config.max_memory != config.memory:
        yield f"--maxmem={_size(config.max_memory)}"
    for field, option in _PATHS.items():
        if path := getattr(config, field):
            yield f"{option}={path.absolute()}"
    for field, option in _SAME.items():
        value = getattr(config, field)
        if value != _default(config, field):
            yield f"{option}={value}"
    yield from (option for field, option in _FLAGS.items() if getattr(config, field))
    yield from (f"--disk={_disk(disk)}" for disk in config.disks)
    yield from (f"--net={_net(net)}" for net in config.nets)
    if config.cloud_init:
        files = (config.cloud_init.user_data, config.cloud_init.meta_data)
        yield f"--cloud-init={','.join(_plain(path) for path in files if path)}"
    if config.console.kind != "stdio":
        yield f"--console={_console(config)}"


def _default(config: Config, field: str) -> object:
    return config.vcpus if field == "max_vcpus" else getattr(Config, field)


def _size(size: int) -> str:
    return f"{size // MIB}M" if size % MIB == 0 else f"{size >> 10}K"


def _console(config: Config) -> str:
    if config.console.kind == "program":
        raise UsageError("a console for a program is nothing that an option can ask for")
    return f"file:{config.console.path}" if config.console.path else config.console.kind


def _plain(path: Path) -> str:
    """`path` where a comma ends it."""
    if "," in str(path):
        raise UsageError(f"an option cannot name {path}, because of the comma: rename it")
    return str(path.absolute())


def _disk(disk: DiskSpec) -> str:
    words = [f"vdev={disk.target}"]
    words += [f"format={disk.format}"] if disk.format != "raw" else []
    words += ["devtype=cdrom"] if disk.cdrom else []
    # A CD-ROM is read-only unless the text says otherwise.
    words += ["ro" if disk.readonly else "rw"] if disk.readonly or disk.cdrom else []
    words += [f"cache={disk.cache}"] if disk.cache != "writeback" else []
    words += [] if disk.discard else ["no-discard"]
    words += ["persistent"] if disk.persistent else []
    words += [f"sector-size={disk.sector_size}"] if disk.sector_size != 512 else []
    words += [f"backing={_plain(path)}" for path in disk.backing]
    words += ["backing=allow"] if disk.follows_backing else []
    words += [f"key={_plain(disk.key)}"] if disk.key else []
    # Only the last may have a comma in it.
    return ",".join([*words, f"target={disk.path.absolute()}"])


def _net(net: NetSpec) -> str:
    words = [f"{net.kind}={net.name}" if net.name else net.kind]
    words += [f"bridge={net.bridge}"] if net.bridge else []
    words += [f"mac={net.mac}"] if net.mac else []
    words += [f"rate={net.rate}"] if net.rate else []
    words += [] if net.host_loopback else ["host-loopback=no"]
    words += [f"forward={forward}" for forward in net.forwards]
    return ",".join(words)
