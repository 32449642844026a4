"""A network interface as a person asks for it: --net."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from kvmxen.errors import UsageError

NetKind = Literal["user", "tap"]
# IFNAMSIZ (linux/if.h), and what ip(8) takes for a name.
_INTERFACE = re.compile(r"[A-Za-z0-9_.-]{1,15}", re.ASCII)
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.ASCII)
_RATE = re.compile(r"([0-9]{1,12})([KMGkmg]?)([bB])/s(?:@([0-9]{1,9})(s|ms|us))?", re.ASCII)
_USEC = {"s": 1_000_000, "ms": 1000, "us": 1}
# In microseconds, as xl has it (XLU__RATE_INTERVAL...).
_INTERVAL = 50_000
_FORMS = "user, tap, tap=NAME or none, then ,bridge=BRIDGE ,mac=MAC ,rate=10Mb/s"


@dataclass(frozen=True)
class Rate:
    """A limit of `size` bytes in each `usec` microseconds."""

    size: int
    usec: int

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Read a rate as xl writes it: 10Mb/s, 250KB/s, 1GB/s@20ms (xl-network-configuration)."""
        match = _RATE.fullmatch(text)
        if match is None:
            raise UsageError(f"{text!r} is not a rate: give such as 10Mb/s, 250KB/s or 1GB/s@20ms")
        count, unit, bits, interval, of = match.groups()
        a_second = int(count) * 1000 ** " KMG".index(unit.upper() or " ")
        a_second //= 8 if bits == "b" else 1
        usec = int(interval) * _USEC[of] if interval else _INTERVAL
        size = a_second * usec // 1_000_000
        if not 0 < size < 1 << 32 or not 0 < usec < 1 << 32:
            raise UsageError(f"the rate {text!r} is too small or too large")
        return cls(size, usec)


@dataclass(frozen=True)
class NetSpec:
    """An interface: by passt ("user") or a tap device, whose `name` the host chooses if empty."""

    kind: NetKind
    name: str = ""
    bridge: str = ""
    mac: str = ""
    rate: Rate | None = None

    @classmethod
    def parse(cls, text: str) -> NetSpec | None:
        """Read --net's argument, None for "none"; raises UsageError."""
        first, *rest = text.split(",")
        kind, given, name = first.partition("=")
        options = dict.fromkeys(("bridge", "mac", "rate"), "")
        for part in rest:
            key, _, value = part.partition("=")
            if key not in options or not value or options[key]:
                raise UsageError(f"--net {text}: give {_FORMS}")
            options[key] = value
        if first == "none" and not rest:
            return None
        if kind not in ("user", "tap") or (given and (kind == "user" or not name)):
            raise UsageError(f"--net {text}: give {_FORMS}")
        for value in (name, options["bridge"]):
            if value and (not _INTERFACE.fullmatch(value) or value in (".", "..")):
                raise UsageError(f"--net {text}: {value!r} cannot name a network interface")
        if options["bridge"] and kind == "user":
            raise UsageError(f"--net {text}: only a tap device can be on a bridge")
        rate = Rate.parse(options["rate"]) if options["rate"] else None
        return cls(
            "user" if kind == "user" else "tap",
            name,
            options["bridge"],
            _check_mac(options["mac"]) if options["mac"] else "",
            rate,
        )


def _check_mac(text: str) -> str:
    mac = text.lower()
    if not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise UsageError(
            f"{text!r} is not a network card's address: give such as 00:16:3e:12:34:56"
        )
    return mac


def generate_mac(domain: str, index: int) -> str:
    """The address of a domain's interface `index`, always the same: of Xen's OUI 00:16:3e."""
    import hashlib

    tail = hashlib.sha256(f"{domain}/{index}".encode()).digest()[:3]
    return ":".join(f"{byte:02x}" for byte in b"\x00\x16\x3e" + tail)
