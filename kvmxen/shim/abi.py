"""The constants of shim/abi.h, and the image built with them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from kvmxen.abi import headers


@cache
def constants() -> dict[str, int]:
    """The name and value of each #define."""
    return headers.constants(Path(__file__).with_name("abi.h"))


def gate() -> bytes:
    """The gate's code page and the syscall page, as built from gate.S."""
    return Path(__file__).with_name("gate.bin").read_bytes()
