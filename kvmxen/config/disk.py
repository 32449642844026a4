"""One disk of a domain, in the syntax of --disk and of xl's configuration files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from kvmxen.errors import UsageError

DiskFormat = Literal["raw", "qcow2", "vhd", "vmdk", "vhdx"]
DiskCache = Literal["writeback", "writethrough", "none", "directsync", "unsafe"]

FORMATS = ("raw", "qcow2", "vhd", "vmdk", "vhdx")
CACHES = ("writeback", "writethrough", "none", "directsync", "unsafe")
_SECTOR_SIZES = {"512": 512, "4096": 4096}
_ACCESS = {"r": True, "ro": True, "w": False, "rw": False}
_VDEV = re.compile(r"(xvd|hd|sd)([a-z]{1,5})([0-9]{0,3})|d([0-9]{1,5})(?:p([0-9]{1,3}))?", re.ASCII)
_OLD_PREFIX = re.compile(r"(?:file|phy|tap2?:aio|aio|raw):(?=/)")


def device_number(name: str) -> int:
    """The number of the virtual device `name` (docs/misc/vbd-interface.txt in Xen).

    xvda, xvdb1, d0p1, hda and sda are such names; raises UsageError for others.
    """
    match = _VDEV.fullmatch(name)
    if match is None:
        raise UsageError(f"{name!r} cannot name a disk: give xvda, xvdb and so on")
    kind = match[1] or "xvd"
    disk = int(match[4]) if match[4] else _letters(match[2])
    partition = int(match[3] or match[5] or 0)
    if kind == "hd" and disk < 4 and partition < 64:
        return (3, 22)[disk >> 1] << 8 | (disk & 1) << 6 | partition
    if kind == "sd" and disk < 16 and partition < 16:
        return 8 << 8 | disk << 4 | partition
    if kind == "xvd" and disk < 16 and partition < 16:
        return 202 << 8 | disk << 4 | partition
    if kind == "xvd" and disk < 1 << 20 and partition < 256:
        return 1 << 28 | disk << 8 | partition
    raise UsageError(f"{name!r} is beyond the last possible disk: give xvda, xvdb and so on")


def _letters(text: str) -> int:
    """a is 0, z is 25, aa is 26."""
    number = 0
    for letter in text:
        number = number * 26 + ord(letter) - ord("a") + 1
    return number - 1


def _name(disk: int) -> str:
    text = ""
    while disk >= 0:
        disk, letter = divmod(disk, 26)
        text, disk = chr(ord("a") + letter) + text, disk - 1
    return f"xvd{text}"


@dataclass(frozen=True, kw_only=True)
class DiskSpec:
    """The file of a disk, and how the guest sees it.

    `target` is the device's name in the guest, empty for the first free one. `sector_size` is in
    bytes. `backing` lists the backing files of a qcow2 image, the nearest first; with
    `follows_backing` they are those that the images name. `key` is the file with the passphrase
    of an encrypted image.
    """

    path: Path
    format: DiskFormat = "raw"
    target: str = ""
    readonly: bool = False
    cdrom: bool = False
    cache: DiskCache = "writeback"
    discard: bool = True
    persistent: bool = False
    sector_size: int = 512
    backing: tuple[Path, ...] = ()
    follows_backing: bool = False
    key: Path | None = None

    def __post_init__(self) -> None:
        if self.sector_size not in _SECTOR_SIZES.values():
            raise UsageError(f"sector-size {self.sector_size} is not supported: give 512 or 4096")
        if self.backing and self.follows_backing:
            raise UsageError(
                "give backing=FILE, and again for each file behind that, or backing=allow"
            )
        if self.format != "qcow2" and (self.backing or self.follows_backing or self.key):
            option = "key=" if self.key else "backing="
            raise UsageError(f"{option} is for format=qcow2, and {self.path} is {self.format}")
        if self.target:
            device_number(self.target)

    @property
    def number(self) -> int:
        """The number of the virtual device."""
        return device_number(self.target)

    @classmethod
    def parse(cls, text: str) -> DiskSpec:
        """Parse `FILE[,format][,vdev][,access][,key=value]...`; raises UsageError.

        Positions may be empty, and each value tells which field it is; keys are xl's (vdev, format,
        access, devtype) and our own. FILE can also come last, as target=FILE.
        """
        fields: dict[str, object] = {}
        first, _, rest = text.partition(",")
        if "=" in first and first.partition("=")[0] in _KEYS:
            first, rest = "", text
        elif first:
            fields["path"] = Path(_OLD_PREFIX.sub("", first))
        while rest:
            if not first and rest.startswith("target="):
                # Like xl, take the rest of the text, including commas.
                fields["path"] = Path(rest.removeprefix("target="))
                break
            part, _, rest = rest.partition(",")
            if part:
                _apply(fields, part, text)
        if not fields.get("path") or str(fields["path"]) == ".":
            raise UsageError(f"--disk {text!r} names no file: give FILE[,KEY=VALUE]...")
        if fields.get("cdrom"):
            fields.setdefault("readonly", True)
        return cls(**fields)  # type: ignore[arg-type]


def _apply(fields: dict[str, object], part: str, text: str) -> None:
    key, equals, value = part.partition("=")
    if not equals:
        key, value = _position(part, text)
    if key == "backendtype":
        # Which of Xen's backends serves it makes no difference here.
        _one_of(value, ("phy", "tap", "qdisk"), key, text)
        return
    if key not in _KEYS:
        keys = ", ".join(_KEYS)
        raise UsageError(f"--disk {text!r}: unknown key {key!r}: give one of {keys}")
    name, convert = _KEYS[key]
    if key == "backing" and value == "allow":
        fields["follows_backing"] = True
    elif key == "backing":
        # Each occurrence adds one more value.
        fields.setdefault(name, ())
        fields[name] += (convert(value, text),)  # type: ignore[operator]
    else:
        fields[name] = convert(value, text)


def _position(part: str, text: str) -> tuple[str, str]:
    """The key and the value of a part without an `=`."""
    if part in _ACCESS:
        return "access", part
    if part in FORMATS or part in ("qcow", "qed"):
        return "format", part
    if part in ("discard", "no-discard"):
        return "discard", str(int(part == "discard"))
    if part == "persistent":
        return "persistent", "1"
    if part in ("cdrom", "disk"):
        return "devtype", part
    if _VDEV.fullmatch(part):
        return "vdev", part
    raise UsageError(
        f"--disk {text!r}: what is {part!r}? Give FILE, then a format, a device such as xvda, "
        "ro or rw, or KEY=VALUE"
    )


def _one_of(value: str, values: Iterable[str], what: str, text: str) -> str:
    if value not in values:
        raise UsageError(f"--disk {text!r}: no {what} {value!r}: give {' or '.join(values)}")
    return value


def _flag(key: str) -> Callable[[str, str], bool]:
    return lambda value, text: _one_of(value, ("0", "1"), key, text) == "1"


def _path(value: str, text: str) -> Path:
    if not value:
        raise UsageError(f"--disk {text!r}: a file is missing: give key=FILE or backing=FILE")
    return Path(value)


_KEYS: dict[str, tuple[str, Callable[[str, str], object]]] = {
    "vdev": ("target", lambda value, _text: value),
    "target": ("target", lambda value, _text: value),
    "format": ("format", lambda value, text: _one_of(value, FORMATS, "format", text)),
    "access": ("readonly", lambda value, text: _ACCESS[_one_of(value, _ACCESS, "access", text)]),
    "devtype": (
        "cdrom",
        lambda value, text: _one_of(value, ("disk", "cdrom"), "devtype", text) == "cdrom",
    ),
    "cache": ("cache", lambda value, text: _one_of(value, CACHES, "cache", text)),
    "discard": ("discard", _flag("discard")),
    "persistent": ("persistent", _flag("persistent")),
    "sector-size": (
        "sector_size",
        lambda value, text: _SECTOR_SIZES[_one_of(value, _SECTOR_SIZES, "sector-size", text)],
    ),
    "backing": ("backing", _path),
    "key": ("key", _path),
}


def with_targets(disks: Iterable[DiskSpec], taken: Iterable[int] = ()) -> list[DiskSpec]:
    """`disks`, each with a target: those without one get the first that is free.

    `taken` are the device numbers in use; raises UsageError if one is used twice.
    """
    disks = list(disks)
    used = set(taken)
    for disk in disks:
        if disk.target:
            if disk.number in used:
                raise UsageError(f"two disks are {disk.target}: give each a different target")
            used.add(disk.number)
    named = []
    for disk in disks:
        if not disk.target:
            free = next(name for n in range(1 << 20) if device_number(name := _name(n)) not in used)
            disk = replace(disk, target=free)
            used.add(disk.number)
        named.append(disk)
    return named
