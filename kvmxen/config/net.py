"""A network interface in the syntax of --net."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Literal

from kvmxen.errors import UsageError

NetKind = Literal["user", "tap"]
# IFNAMSIZ (linux/if.h), and the names that ip(8) accepts.
_INTERFACE = re.compile(r"[A-Za-z0-9_.-]{1,15}", re.ASCII)
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.ASCII)
_RATE = re.compile(r"([0-9]{1,12})([KMGkmg]?)([bB])/s(?:@([0-9]{1,9})(s|ms|us))?", re.ASCII)
_USEC = {"s": 1_000_000, "ms": 1000, "us": 1}
# In microseconds, xl's default (XLU__RATE_INTERVAL...).
_INTERVAL = 50_000
_FORWARD = re.compile(
    r"(tcp|udp):(?:([0-9.]{7,15}):|\[([0-9A-Fa-f:.]{2,45})\]:)?([0-9]{1,5}):([0-9]{1,5})", re.ASCII
)
_FORMS = (
    "user, tap, tap=NAME or none, then ,bridge=BRIDGE ,mac=MAC ,rate=10Mb/s, "
    "or for user ,host-loopback=no ,forward=tcp:2222:22"
)


@dataclass(frozen=True)
class Rate:
    """A limit of `size` bytes in each `usec` microseconds."""

    size: int
    usec: int

    def __post_init__(self) -> None:
        if not 0 < self.size < 1 << 32 or not 0 < self.usec < 1 << 32:
            raise UsageError("the rate is too small or too large: give one such as 10Mb/s")

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Parse a rate in xl's syntax: 10Mb/s, 250KB/s, 1GB/s@20ms (xl-network-configuration)."""
        match = _RATE.fullmatch(text)
        if match is None:
            raise UsageError(
                f"{text!r} is not a rate: give one such as 10Mb/s, 250KB/s or 1GB/s@20ms"
            )
        count, unit, bits, interval, of = match.groups()
        a_second = int(count) * 1000 ** " KMG".index(unit.upper() or " ")
        a_second //= 8 if bits == "b" else 1
        usec = int(interval) * _USEC[of] if interval else _INTERVAL
        return cls(a_second * usec // 1_000_000, usec)

    def __str__(self) -> str:
        """The text that parse() reads."""
        # Rounded up, since parse() rounds down.
        return f"{-(-self.size * 1_000_000 // self.usec)}B/s@{self.usec}us"


@dataclass(frozen=True)
class Forward:
    """A port of the host, at its `address`, that leads to the guest's `port`."""

    protocol: Literal["tcp", "udp"]
    address: str
    host: int
    port: int

    def __post_init__(self) -> None:
        try:
            ip_address(self.address)
        except ValueError:
            raise UsageError(
                f"{self.address!r} is not an IP address: give one such as 127.0.0.1"
            ) from None
        for number in (self.host, self.port):
            if not 0 < number < 1 << 16:
                raise UsageError(f"{number} is not a port: give 1 to 65535")

    @classmethod
    def parse(cls, text: str) -> Forward:
        """Parse PROTOCOL:[ADDRESS:]PORT:PORT, an IPv6 address in brackets; raises UsageError.

        Without an address only the host itself can reach the guest.
        """
        match = _FORWARD.fullmatch(text)
        if match is None:
            raise UsageError(
                f"forward={text}: give one such as tcp:2222:22, or tcp:0.0.0.0:2222:22 "
                "for other hosts as well"
            )
        protocol, address, address6, host, port = match.groups()
        return cls(
            "tcp" if protocol == "tcp" else "udp",
            address or address6 or "127.0.0.1",
            int(host),
            int(port),
        )

    def __str__(self) -> str:
        """The text that parse() reads."""
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.protocol}:{address}:{self.host}:{self.port}"


@dataclass(frozen=True)
class NetSpec:
    """An interface, by passt ("user") or a tap device; if `name` is empty, the host chooses one.

    With `host_loopback`, the guest of a "user" interface reaches the host's 127.0.0.1 as 10.0.2.2.
    """

    kind: NetKind
    name: str = ""
    bridge: str = ""
    mac: str = ""
    rate: Rate | None = None
    host_loopback: bool = True
    forwards: tuple[Forward, ...] = ()

    def __post_init__(self) -> None:
        for value in (self.name, self.bridge):
            if value and (not _INTERFACE.fullmatch(value) or value in (".", "..")):
                raise UsageError(f"{value!r} cannot name a network interface")
        if self.kind == "user" and self.name:
            raise UsageError("an interface of kind user has no name: give user or tap=NAME")
        if self.kind == "user" and self.bridge:
            raise UsageError("only a tap device can be on a bridge, no interface of kind user")
        if self.kind == "tap" and (self.forwards or not self.host_loopback):
            raise UsageError("host-loopback and forward are for an interface of kind user, not tap")
        if self.mac and not _is_mac(self.mac):
            raise UsageError(
                f"{self.mac!r} is not a network card's address: give one such as 00:16:3e:12:34:56"
            )

    @classmethod
    def parse(cls, text: str) -> NetSpec | None:
        """Parse --net's argument, None for "none"; raises UsageError."""
        first, *rest = text.split(",")
        kind, given, name = first.partition("=")
        if first == "none" and not rest:
            return None
        if kind not in ("user", "tap") or (given and not name):
            raise UsageError(f"--net {text}: give {_FORMS}")
        fields: dict[str, Any] = {}
        forwards = []
        for part in rest:
            key, _, value = part.partition("=")
            if key == "forward":
                forwards.append(Forward.parse(value))
            elif key in _KEYS and value and _KEYS[key][0] not in fields:
                field, convert = _KEYS[key]
                fields[field] = convert(value)
            else:
                raise UsageError(f"--net {text}: give {_FORMS}")
        return cls("user" if kind == "user" else "tap", name, **fields, forwards=tuple(forwards))


def _yes_or_no(value: str) -> bool:
    if value not in ("yes", "no"):
        raise UsageError(f"host-loopback={value}: give yes or no")
    return value == "yes"


_KEYS: dict[str, tuple[str, Callable[[str], object]]] = {
    "bridge": ("bridge", str),
    "mac": ("mac", str.lower),
    "rate": ("rate", Rate.parse),
    "host-loopback": ("host_loopback", _yes_or_no),
}


def _is_mac(text: str) -> bool:
    """Whether `text` is the MAC address of one station: not a group's, not all zeros."""
    return bool(_MAC.fullmatch(text)) and not int(text[:2], 16) & 1 and text.strip("0:") != ""


def generate_mac(domain: str, index: int) -> str:
    """The MAC address of a domain's interface `index`: always the same, with Xen's OUI 00:16:3e."""
    import hashlib

    tail = hashlib.sha256(f"{domain}/{index}".encode()).digest()[:3]
    return ":".join(f"{byte:02x}" for byte in b"\x00\x16\x3e" + tail)
