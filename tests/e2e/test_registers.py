"""Each process of a guest keeps its own x87 and vector registers, whatever this host shows it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.domain import LIMIT, Boot, Ramdisk

# The bits of XCR0 for x87, SSE, AVX and AVX-512's three. A PV kernel saves no others.
STATES = 0xE7
SCRIPT = 'workload vectors && echo "[right]"; dmesg | grep x86/fpu:; echo "[end]"; poweroff -f\n'


@pytest.mark.parametrize("vcpus", [1, 2])
@pytest.mark.parametrize("shim", ["dispatch", "exits"])
def test_registers(
    boot: Boot,
    debian_kernel: Callable[[str], Path],
    ramdisk: Ramdisk,
    workload: Path,
    shim: str,
    vcpus: int,
) -> None:
    image = ramdisk(SCRIPT, workload)
    options = ("--shim", shim, "--vcpus", vcpus, "--timeout", LIMIT)
    quiet = ("--cmdline", "console=hvc0 quiet")
    domain = boot(debian_kernel("6.1"), "--ramdisk", image, *quiet, *options)
    xcr0 = int(domain.expect(r"XCR0: (0x[0-9a-f]+|0)\n")[1], 16)
    levels = ["x87", "SSE"] + ["AVX"] * bool(xcr0 & 4) + ["AVX-512"] * (xcr0 & 0xE0 == 0xE0)
    for level in levels:
        assert domain.expect(r"(?:HELD|FAILED): ([^\n]*)\n")[1] == level
    # The kernel saves what programs can change, and says so.
    log = domain.expect(r"\[right\]\n(.*)\[end\]")[1]
    saved = f"Enabled xstate features {xcr0 & STATES:#x}," if xcr0 else "x87 FPU will use FXSAVE"
    assert saved in log
    domain.ends(0)
