"""Builds a freestanding PV guest from its sources and lib/, the runtime, with only a compiler."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from kvmxen.errors import KvmxenError

RUNTIME = Path(__file__).parent / "lib"
# Its xen/abi/ has the numbers that guests share with the rest of kvmxen.
PACKAGE = Path(__file__).parents[1]

# The runtime's kernel runs in ring 3 without FPU state of its own: general registers only.
# fmt: off
FLAGS = [
    "-std=gnu11", "-O2", "-g0", "-Wall", "-Wextra", "-Werror",
    "-ffreestanding", "-nostdlib", "-static", "-no-pie", "-fno-pic",
    "-mcmodel=kernel", "-mno-red-zone", "-mgeneral-regs-only", "-fcf-protection=none",
    "-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fno-strict-aliasing",
    "-fno-tree-loop-distribute-patterns", "-ffunction-sections",
    "-Wl,--gc-sections", "-Wl,--build-id=none", "-Wl,-z,max-page-size=4096", "-Wl,-z,noexecstack",
]
# fmt: on


def tool(variable: str, default: str) -> list[str]:
    """The command in the environment's `variable` (CC, LD), split as make(1) does."""
    return shlex.split(os.environ.get(variable) or default)


def compile_guest(sources: Sequence[Path], out: Path) -> None:
    """Compile `sources` (.c, .S) and link them with the runtime to the ELF kernel `out`.

    Raises KvmxenError, which names the command that failed or the missing compiler.
    """
    runtime = sorted(path for path in RUNTIME.iterdir() if path.suffix in {".c", ".S"})
    command = [
        *tool("CC", "gcc"),
        *FLAGS,
        f"-I{RUNTIME}",
        f"-I{PACKAGE}",
        f"-Wl,-T,{RUNTIME / 'link.ld'}",
        *map(str, [*runtime, *sources]),
        "-o",
        str(out),
    ]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise KvmxenError(f"{command[0]} is not installed: install gcc and binutils") from None
    if result.returncode:
        raise KvmxenError(f"{' '.join(command)} failed:\n{result.stderr}")
