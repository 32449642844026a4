"""The requests to a running domain, as types, and their form on the wire.

A request travels as {"command": NAME, "arguments": {FIELD: VALUE, ...}}, each field as a JSON
value; a nested dataclass is an object of its fields. A path is absolute and percent-encoded as in
a file: URI, since a file's name need not be UTF-8.
"""

from __future__ import annotations

import os
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from kvmxen.config.disk import DiskSpec
from kvmxen.config.net import NetSpec
from kvmxen.errors import UsageError


class RequestError(Exception):
    """A message is not a request of this version; str() says why."""


@dataclass(frozen=True)
class BlockAttach:
    """Attach a disk; the answer is its name in the guest."""

    disk: DiskSpec


@dataclass(frozen=True)
class BlockDetach:
    """Detach the disk `device` (such as xvdb); the answer is whether the guest has given it up.

    With `force` the guest is not asked.
    """

    device: str
    force: bool = False


@dataclass(frozen=True)
class BlockResize:
    """Show the guest the current size of the file of the disk `device`."""

    device: str


@dataclass(frozen=True)
class NetworkAttach:
    """Attach a network interface; the answer is its number."""

    net: NetSpec


@dataclass(frozen=True)
class NetworkDetach:
    """Detach the network interface `number`; see BlockDetach."""

    number: int
    force: bool = False


@dataclass(frozen=True)
class Figures:
    """Get the counters of each device: {"vbd/51712": {"requests": 12, ...}, ...}."""


@dataclass(frozen=True)
class Start:
    """Start a guest that was built and not started."""


@dataclass(frozen=True)
class Pause:
    """Stop the guest's vCPUs."""


@dataclass(frozen=True)
class Unpause:
    """Undo Pause."""


@dataclass(frozen=True)
class Shutdown:
    """Ask the guest to power off; the answer is whether there was a guest to ask."""


@dataclass(frozen=True)
class Reboot:
    """Ask the guest to reboot; see Shutdown."""


@dataclass(frozen=True)
class Destroy:
    """End the guest at once."""


@dataclass(frozen=True)
class Wait:
    """Wait for the end; the answer is how the domain ended, or null after `seconds`.

    An end is {"end": NAME, "at": SECONDS, "reason": TEXT, "report": TEXT}.
    """

    seconds: float | None = None

    def __post_init__(self) -> None:
        # The test is not "negative", so that it refuses NaN too.
        if self.seconds is not None and not self.seconds >= 0:
            raise UsageError(f"wait 0 seconds or more, not {self.seconds!r:.100}")


@dataclass(frozen=True)
class Describe:
    """Describe the domain: {"uuid": TEXT, "state": TEXT, "console": PATH or ""}."""


@dataclass(frozen=True)
class Stats:
    """Get the figures of the guest's run, the same as `kvmxen boot --stats=json`."""


Request = (
    BlockAttach
    | BlockDetach
    | BlockResize
    | NetworkAttach
    | NetworkDetach
    | Figures
    | Start
    | Pause
    | Unpause
    | Shutdown
    | Reboot
    | Destroy
    | Wait
    | Describe
    | Stats
)

COMMANDS: dict[str, type[Request]] = {
    "start": Start,
    "pause": Pause,
    "unpause": Unpause,
    "shutdown": Shutdown,
    "reboot": Reboot,
    "destroy": Destroy,
    "wait": Wait,
    "describe": Describe,
    "stats": Stats,
    "block-attach": BlockAttach,
    "block-detach": BlockDetach,
    "block-resize": BlockResize,
    "network-attach": NetworkAttach,
    "network-detach": NetworkDetach,
    "figures": Figures,
}
_NAMES = {kind: name for name, kind in COMMANDS.items()}


def pack(request: Request) -> dict[str, Any]:
    """`request` as a JSON value; paths relative to this process become absolute."""
    return {"command": _NAMES[type(request)], "arguments": _encode(request)}


def unpack(message: object) -> Request:
    """The request in `message`.

    Raises RequestError if it is not a request, and UsageError if its values are invalid.
    """
    match message:
        case {"command": str(command), "arguments": arguments, **rest} if not rest:
            if kind := COMMANDS.get(command):
                request: Request = _decode(kind, arguments, command)
                return request
            raise RequestError(f"this domain knows no {command!r}: it is of another version")
    raise RequestError("not a request")


def _encode(value: object) -> Any:
    from urllib.parse import quote

    if isinstance(value, Path):
        return quote(os.fsencode(value.absolute()))
    if is_dataclass(value):
        return {field.name: _encode(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    return value


def _decode(kind: Any, value: object, where: str) -> Any:
    """`value` as a `kind`, the type of a field; nothing is converted silently."""
    origin = get_origin(kind)
    if is_dataclass(kind) and isinstance(kind, type):
        return kind(**_fields(kind, value, where))
    if kind is Path:
        return _path(value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_decode(get_args(kind)[0], item, where) for item in value)
    if origin is Literal:
        # True == 1, so compare the types too.
        known = [(type(item), item) for item in get_args(kind)]
        if isinstance(value, str | int) and (type(value), value) in known:
            return value
    elif origin in (Union, UnionType):
        others = [arm for arm in get_args(kind) if arm is not NoneType]
        if value is None and len(others) < len(get_args(kind)):
            return None
        (arm,) = others
        return _decode(arm, value, where)
    elif type(value) is kind:
        return value
    elif kind is float and type(value) is int:
        # JSON has one kind of number, and Python takes an int for a float.
        return value
    raise RequestError(f"{where} cannot be {value!r:.100}")


def _fields(kind: Any, value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RequestError(f"{where} is not an object")
    hints = get_type_hints(kind)
    required = {f.name for f in fields(kind) if f.default is MISSING}
    if strange := value.keys() - hints.keys():
        raise RequestError(f"{where} has a field that is unknown: {min(strange)!r:.100}")
    if missing := required - value.keys():
        raise RequestError(f"{where} lacks {min(missing)!r}")
    return {name: _decode(hints[name], item, f"{where}: {name}") for name, item in value.items()}


def _path(value: object, where: str) -> Path:
    from urllib.parse import unquote_to_bytes

    if isinstance(value, str) and value.startswith("/") and value.isascii():
        path = unquote_to_bytes(value)
        if b"\0" not in path:
            return Path(os.fsdecode(path))
    raise RequestError(f"{where} is not the path of a file: {value!r:.100}")
