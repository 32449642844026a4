"""Amounts of memory: as people write them, as the host has them."""

from __future__ import annotations

import re
from pathlib import Path

from kvmxen.errors import UsageError

MIB = 1 << 20
_UNIT = {"": MIB, "K": 1 << 10, "M": MIB, "G": 1 << 30}


def parse_size(text: str) -> int:
    """Bytes in `text`: a number with the suffix K, M or G; a plain one is in MiB, as with xl."""
    match = re.fullmatch(r"([0-9]{1,12})([KMG]?)", text.strip().upper(), re.ASCII)
    if match is None:
        raise UsageError(f"{text!r} is not a memory size: give a number such as 512M or 2G")
    return int(match[1]) * _UNIT[match[2]]


def host_memory(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Bytes of memory that this host has (MemTotal of proc_meminfo(5))."""
    match = re.search(r"^MemTotal:\s+([0-9]+) kB$", meminfo.read_text(), re.MULTILINE)
    if match is None:
        raise UsageError(f"{meminfo} does not tell how much memory this host has")
    return int(match[1]) << 10
