"""The requests to a running domain, as types, and their form on the wire.

A request travels as {"command": NAME, "arguments": {FIELD: VALUE, ...}}, each field as a JSON
value (config/codec.py). DESCRIPTORS says how many descriptors travel with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kvmxen.config.codec import CodecError, decode, encode
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
    """Start a guest that was built and not started; if `paused`, before its first instruction."""

    paused: bool = False


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
class Sysrq:
    """Ask a Linux guest for what its magic SysRq `key` does."""

    key: str

    def __post_init__(self) -> None:
        if len(self.key) != 1 or not self.key.isascii() or not self.key.isalnum():
            raise UsageError(f"{self.key!r:.100} is no SysRq key: give a letter or a digit")


@dataclass(frozen=True)
class Nmi:
    """Send vCPU 0 a non-maskable interrupt."""


# In s.
MAX_WAIT_S = 20.0


@dataclass(frozen=True)
class Wait:
    """Wait for the end; the answer is how the domain ended, or null after `seconds`.

    An end is {"end": NAME, "at": SECONDS, "reason": TEXT, "report": TEXT}.
    """

    seconds: float

    def __post_init__(self) -> None:
        # A client that has gone keeps its place meanwhile.
        if not 0 <= self.seconds <= MAX_WAIT_S:
            raise UsageError(f"wait 0 to {MAX_WAIT_S:g} seconds, not {self.seconds!r:.100}")


@dataclass(frozen=True)
class Describe:
    """Describe the domain; the answer is a Description (domain/description.py)."""


@dataclass(frozen=True)
class Console:
    """Attach the socket that comes along to the console; the answer is whether it may write.

    It gets the console's history first. One client writes at a time: with `force` this one does,
    and the one that did is disconnected.
    """

    writes: bool = True
    force: bool = False


@dataclass(frozen=True)
class Events:
    """Write a line of JSON for each event to the socket that comes along (domain/events.py)."""


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
    | Sysrq
    | Nmi
    | Wait
    | Describe
    | Console
    | Events
    | Stats
)

COMMANDS: dict[str, type[Request]] = {
    "start": Start,
    "pause": Pause,
    "unpause": Unpause,
    "shutdown": Shutdown,
    "reboot": Reboot,
    "destroy": Destroy,
    "sysrq": Sysrq,
    "nmi": Nmi,
    "wait": Wait,
    "describe": Describe,
    "console": Console,
    "events": Events,
    "stats": Stats,
    "block-attach": BlockAttach,
    "block-detach": BlockDetach,
    "block-resize": BlockResize,
    "network-attach": NetworkAttach,
    "network-detach": NetworkDetach,
    "figures": Figures,
}
DESCRIPTORS: dict[type[Request], int] = {Console: 1, Events: 1}
_NAMES = {kind: name for name, kind in COMMANDS.items()}


def pack(request: Request) -> dict[str, Any]:
    """`request` as a JSON value; paths relative to this process become absolute."""
    return {"command": _NAMES[type(request)], "arguments": encode(request)}


def unpack(message: object) -> Request:
    """The request in `message`.

    Raises RequestError if it is not a request, and UsageError if its values are invalid.
    """
    match message:
        case {"command": str(command), "arguments": arguments, **rest} if not rest:
            if kind := COMMANDS.get(command):
                try:
                    request: Request = decode(kind, arguments, command)
                except CodecError as error:
                    raise RequestError(str(error)) from None
                return request
            raise RequestError(f"this domain knows no {command!r}: it is of another version")
    raise RequestError("not a request")
