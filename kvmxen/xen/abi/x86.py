"""x86-64 numbers from x86.h, each under its name there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kvmxen.xen.abi.headers import constants

_NUMBERS = constants(Path(__file__).with_suffix(".h"))
globals().update(_NUMBERS)
if TYPE_CHECKING:

    def __getattr__(name: str) -> int: ...


# The general registers, in the order of their numbers in instructions.
REGISTERS = (
    "rax",
    "rcx",
    "rdx",
    "rbx",
    "rsp",
    "rbp",
    "rsi",
    "rdi",
    "r8",
    "r9",
    "r10",
    "r11",
    "r12",
    "r13",
    "r14",
    "r15",
)


def is_canonical(va: int) -> bool:
    """Whether `va` is a 48-bit canonical address."""
    return (va + (1 << 47)) & (1 << 64) - 1 < 1 << 48


def has_error_code(vector: int) -> bool:
    """Whether exception `vector` pushes an error code."""
    return bool(_NUMBERS["TRAPS_WITH_ERROR_CODE"] >> vector & 1)
