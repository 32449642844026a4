"""Amounts of memory: in the user's syntax, and the host's total."""

from __future__ import annotations

import re
from pathlib import Path

from kvmxen.errors import UsageError

MIB = 1 << 20
_UNIT = {"": MIB, "K": 1 << 10, "M": MIB, "G": 1 << 30}


def parse_size(text: str) -> int:
    """Parse a size into bytes: a number with suffix K, M or G; without one in MiB, as with xl."""
    match = re.fullmatch(r"([0-9]{1,12})([KMG]?)", text.strip().upper(), re.ASCII)
    if match is None:
        raise UsageError(f"{text!r} is not a memory size: give a number such as 512M or 2G")
    return int(match[1]) * _UNIT[match[2]]


def host_memory(meminfo: Path = Path("/proc/meminfo")) -> int:
    """This host's memory in bytes (MemTotal of proc_meminfo(5))."""
    match = re.search(r"^MemTotal:\s+([0-9]+) kB$", meminfo.read_text(), re.MULTILINE)
    if match is None:
        raise UsageError(f"{meminfo} does not tell how much memory this host has")
    return int(match[1]) << 10
