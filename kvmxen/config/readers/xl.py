"""xl's configuration files: a Config from the settings of one, and back."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_args
from uuid import UUID

from kvmxen.config.console import ConsoleSpec
from kvmxen.config.disk import DiskSpec
from kvmxen.config.domain import Action, Bootloader, Config
from kvmxen.config.net import NetSpec, Rate
from kvmxen.config.readers.xl_disk import read_disk
from kvmxen.config.readers.xl_grammar import MAX_SIZE, Setting, parse, parse_argument
from kvmxen.config.readers.xl_keys import DROPPED, REFUSED
from kvmxen.config.sizes import MIB
from kvmxen.errors import FieldError, KvmxenError, UsageError

_READ_KEYS = """
    bootloader builder cmdline disk extra kernel maxmem maxvcpus memory name on_crash
    on_poweroff on_reboot ramdisk root type uuid vcpus vif
"""
READ = frozenset(_READ_KEYS.split())
# An action of xl's that comes close to one of ours is not the same.
_NOT_ACTIONS = ("rename-restart", "coredump-destroy", "coredump-restart", "soft-reset")
_PV = {"pv", "linux", "generic", ""}
# xl takes no other form.
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)
# The names that xl.cfg files give to the system of a disk.
_BOOTLOADERS: Mapping[str, Bootloader] = {
    "pygrub": "pygrub",
    "pvgrub": "pvgrub",
    "pvgrub64": "pvgrub",
}

# The names that these files give to fields of a Config.
_WORDS = {"max_memory": "maxmem", "max_vcpus": "maxvcpus", "disks": "disk", "nets": "vif"}

_T = TypeVar("_T")


@dataclass(frozen=True)
class Reading:
    """What a file asks for, and what a person should know about it.

    `warnings` are about settings that may not do what was meant, `notes` about those without
    meaning here.
    """

    config: Config
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def read_file(path: Path, more: Sequence[str] = ()) -> Reading:
    """Read the configuration file `path`, and `more` settings of the command line after it.

    Raises KvmxenError, a UsageError if the file is wrong: which line, and what to do.
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            text = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise KvmxenError(f"cannot read {path}: {error.strerror}; give another file") from None
    return read(text, str(path), more)


def read(text: str, where: str, more: Sequence[str] = ()) -> Reading:
    """The same of a file's `text`; `where` names it in errors."""
    settings = parse(text, where)
    for argument in more:
        settings = parse_argument(argument, settings)
    return _Reader(settings, where).reading()


def read_vif(text: str) -> NetSpec:
    """The interface that `text` describes, as in the list vif; raises UsageError."""
    return _Reader({}, "vif").vif(text)


class _Reader:
    def __init__(self, settings: Mapping[str, Setting], where: str) -> None:
        self._settings = settings
        self._where = where
        self._warnings: list[str] = []
        self._notes: list[str] = []

    def reading(self) -> Reading:
        self._check_keys()
        self._check_type()
        kernel, bootloader = self._kernel()
        vcpus = self._number("vcpus") or 1
        memory = self._number("memory")
        most = self._number("maxmem")
        # Without memory, xl gives a guest all that it may have.
        size = memory or most
        config = self._made(
            name=self._name(),
            uuid=self._uuid(),
            kernel=kernel,
            bootloader=bootloader,
            ramdisk=self._path("ramdisk"),
            cmdline=self._cmdline(),
            memory=size * MIB if size else Config.memory,
            max_memory=most * MIB,
            vcpus=vcpus,
            max_vcpus=self._number("maxvcpus") or 0,
            disks=self._each("disk", read_disk),
            nets=self._each("vif", self.vif),
            on_poweroff=self._action("on_poweroff", "destroy"),
            on_reboot=self._action("on_reboot", "restart"),
            on_crash=self._action("on_crash", "destroy"),
            console=ConsoleSpec("none"),
        )
        return Reading(config, tuple(self._warnings), tuple(self._notes))

    def _made(self, **fields: Any) -> Config:
        try:
            return Config(**fields)
        except FieldError as error:
            raise UsageError(f"{self._where}: {error.worded(_WORDS)}") from None

    def _check_keys(self) -> None:
        known = READ | REFUSED.keys() | DROPPED
        for key, setting in self._settings.items():
            where = setting.where
            if key in DROPPED:
                self._notes.append(f"{where}: {key} means nothing to a PV guest here")
            elif key in REFUSED and not self._asks_for_nothing(key, setting):
                raise UsageError(f"{where}: kvmxen does not do {key}: remove it")
            elif key not in known:
                (near, *_) = [*difflib.get_close_matches(key, known, 1), ""]
                advice = f"; is {near} meant?" if near else ""
                self._warnings.append(f"{where}: unknown key {key}, ignored{advice}")

    def _asks_for_nothing(self, key: str, setting: Setting) -> bool:
        value = setting.value
        return value == [] or (isinstance(value, str) and value in REFUSED[key])

    def _check_type(self) -> None:
        for key in ("type", "builder"):
            if self._text(key) not in _PV:
                raise self._error(key, f"a guest of type {self._text(key)} is not run: give pv")

    def _kernel(self) -> tuple[Path | None, Bootloader]:
        kernel, bootloader = self._path("kernel"), self._text("bootloader")
        if kernel is not None:
            return kernel, Config.bootloader
        if not bootloader:
            raise UsageError(f"{self._where}: give a kernel, or a bootloader and a disk")
        known = _BOOTLOADERS.get(Path(bootloader).name)
        if known is None:
            raise self._error(
                "bootloader", f"{bootloader} is not known: give pvgrub, pygrub or a kernel"
            )
        if "disk" not in self._settings:
            raise self._error("bootloader", "there is no disk to boot from: give one")
        return None, known

    def _name(self) -> str:
        if not (name := self._text("name")):
            raise UsageError(f"{self._where}: give the domain a name")
        return name

    def _uuid(self) -> UUID | None:
        if not (text := self._text("uuid")):
            return None
        if not _UUID.fullmatch(text):
            raise self._error("uuid", f"{text!r:.60} is not a UUID")
        return UUID(text)

    def _cmdline(self) -> str:
        root, extra = self._text("root"), self._text("extra")
        if "cmdline" in self._settings:
            if root or extra:
                self._warnings.append(f"{self._where}: cmdline takes the place of root and extra")
            return self._text("cmdline")
        written = {"root": f"root={root}", "extra": extra}
        return " ".join(text for key, text in written.items() if key in self._settings)

    def _action(self, key: str, default: Action) -> Action:
        value = self._text(key) if key in self._settings else default
        for action in get_args(Action):
            if value == action:
                chosen: Action = action
                return chosen
        known = " or ".join(get_args(Action))
        missing = "kvmxen does not do" if value in _NOT_ACTIONS else "no such action:"
        raise self._error(key, f"{missing} {value!r:.60}; give {known}")

    def vif(self, text: str) -> NetSpec:
        """See read_vif()."""
        kind = NetSpec("user")
        for part in filter(None, (part.strip() for part in text.split(","))):
            key, _, value = part.partition("=")
            kind = self._vif_part(kind, key.strip(), value.strip(), text)
        return kind

    def _vif_part(self, spec: NetSpec, key: str, value: str, text: str) -> NetSpec:
        match key, value:
            case "mac", _:
                return replace(spec, mac=value.lower())
            case "bridge", _ if value:
                return replace(spec, kind="tap", bridge=value)
            case "vifname", _ if value:
                return replace(spec, kind="tap", name=value)
            case "rate", _:
                return replace(spec, rate=Rate.parse(value))
            case ("type", "vif") | ("script", "vif-bridge") | ("backend", "0" | "Domain-0"):
                return spec
            case "model", _:
                self._notes.append(f"{self._where}: vif: a PV guest's card has no model")
                return spec
            case (("ip" | "script" | "backend" | "type" | "gatewaydev" | "devid" | "trusted"), _):
                raise UsageError(f"vif {text!r:.80}: kvmxen does not do {key}={value}")
        self._warnings.append(f"{self._where}: vif: unknown key {key!r:.40}, ignored")
        return spec

    def _each(self, key: str, read: Callable[[str], _T]) -> tuple[_T, ...]:
        """What `read` makes of each text of a list."""
        setting = self._settings.get(key)
        if setting is None:
            return ()
        if not isinstance(setting.value, list):
            raise self._error(key, f"it is a list: write {key} = [ ... ]")
        found = []
        for item in setting.value:
            if not isinstance(item, str):
                raise self._error(key, "a list of texts is expected, not a list in it")
            try:
                found.append(read(item))
            except UsageError as error:
                raise self._error(key, str(error)) from None
        return tuple(found)

    def _text(self, key: str) -> str:
        setting = self._settings.get(key)
        if setting is None:
            return ""
        if isinstance(setting.value, list):
            raise self._error(key, "one value is expected, not a list")
        return setting.value

    def _path(self, key: str) -> Path | None:
        text = self._text(key)
        return Path(text) if text else None

    def _number(self, key: str) -> int:
        """A number, decimal, octal or hexadecimal as in C; 0 if there is none."""
        text = self._text(key)
        if not text:
            return 0
        octal = len(text) > 1 and text.isdigit() and text.startswith("0")
        try:
            number = int(text, 8 if octal else 0)
        except ValueError:
            raise self._error(key, f"{text!r:.60} is not a number") from None
        if not 0 <= number < 1 << 31:
            raise self._error(key, f"{text:.60} is out of range")
        return number

    def _error(self, key: str, sentence: str) -> UsageError:
        setting = self._settings.get(key)
        where = setting.where if setting else self._where
        return UsageError(f"{where}: {key}: {sentence}")


def write(config: Config) -> str:
    """The text of a file that gives `config`; raises UsageError for what xl's files cannot say."""
    return "".join(f"{key} = {_written(value)}\n" for key, value in _settings(config))


def _settings(config: Config) -> Iterator[tuple[str, str | int | list[str]]]:
    if config.kernel is None and not config.disks:
        raise UsageError("xl's files have no demo guest: give a kernel or a disk")
    for field in ("shell", "modules", "xenstore", "cloud_init"):
        if getattr(config, field):
            raise UsageError(f"xl's files have no {field}")
    yield "name", config.name
    if config.uuid:
        yield "uuid", str(config.uuid)
    if config.kernel is None:
        yield "bootloader", config.bootloader
    else:
        yield "kernel", str(config.kernel.absolute())
    if config.ramdisk:
        yield "ramdisk", str(config.ramdisk.absolute())
    if config.cmdline:
        yield "cmdline", config.cmdline
    yield "memory", _whole_mib(config.memory)
    if config.max_memory != config.memory:
        yield "maxmem", _whole_mib(config.max_memory)
    yield "vcpus", config.vcpus
    if config.max_vcpus != config.vcpus:
        yield "maxvcpus", config.max_vcpus
    if config.disks:
        yield "disk", [_disk_text(disk) for disk in config.disks]
    if config.nets:
        yield "vif", [_vif_text(net) for net in config.nets]
    for key in ("on_poweroff", "on_reboot", "on_crash"):
        yield key, getattr(config, key)


def _whole_mib(size: int) -> int:
    if size % MIB:
        raise UsageError(f"xl's files give memory in MiB, and {size} bytes is not a whole number")
    return size // MIB


def _disk_text(disk: DiskSpec) -> str:
    ours = replace(disk, cache="writeback", sector_size=512, backing=(), persistent=False)
    if ours != disk or disk.follows_backing or disk.key:
        raise UsageError(f"xl's files cannot say all that is asked of the disk {disk.path}")
    words = [f"format={disk.format}", f"vdev={disk.target}"]
    words.append(f"access={'ro' if disk.readonly else 'rw'}")
    words += ["cdrom"] if disk.cdrom else []
    words += [] if disk.discard else ["no-discard"]
    return ",".join([*words, f"target={disk.path.absolute()}"])


def _vif_text(net: NetSpec) -> str:
    if net.forwards or not net.host_loopback or (net.kind == "tap" and not net.bridge + net.name):
        raise UsageError("xl's files cannot say all that is asked of a network interface")
    words = [f"mac={net.mac}"] if net.mac else []
    words += [f"bridge={net.bridge}"] if net.bridge else []
    words += [f"vifname={net.name}"] if net.name else []
    if net.rate:
        words.append(f"rate={net.rate}")
    return ",".join(words)


def _written(value: str | int | list[str]) -> str:
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return "[ " + ", ".join(map(_written, value)) + " ]"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
