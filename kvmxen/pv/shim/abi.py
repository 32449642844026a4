"""The constants of shim/abi.h, and the image built with them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from kvmxen.xen.abi import headers


@cache
def constants() -> dict[str, int]:
    """The name and value of each #define."""
    return headers.constants(Path(__file__).with_name("abi.h"))


def code() -> bytes:
    """The gates, the syscall pages and the dispatcher, as they lie from gpa 0 (shim.ld)."""
    return Path(__file__).with_name("shim.bin").read_bytes()
