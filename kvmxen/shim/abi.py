"""The constants of shim/abi.h, read from it: the header is the only place where they stand."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

_DEFINE = re.compile(r"^#define\s+(\w+)\s+(0x[0-9a-f]+|\d+)", re.MULTILINE)


@cache
def constants() -> dict[str, int]:
    """Name to value of each #define."""
    text = Path(__file__).with_name("abi.h").read_text()
    return {name: int(value, 0) for name, value in _DEFINE.findall(text)}


def gate() -> bytes:
    """The gate's code page and the syscall page, as built from gate.S."""
    return Path(__file__).with_name("gate.bin").read_bytes()
