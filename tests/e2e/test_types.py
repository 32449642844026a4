"""The counts of page-table references match the tables after real kernels have used them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.domain import LIMIT, ROOT, SLOWNESS, Ramdisk


@pytest.mark.timeout(2 * LIMIT * SLOWNESS)
@pytest.mark.parametrize(
    ("version", "vcpus", "shim", "work"),
    [
        ("6.1", 1, "dispatch", "workload"),
        ("6.12", 4, "dispatch", "workload"),
        # Every trap is an exit, so less work is enough.
        ("6.1", 2, "exits", "for i in $(seq 100); do ls / > /tmp/$i & done; wait"),
    ],
)
def test_tables_are_counted_rightly(
    kvm: None,
    environment: dict[str, str],
    debian_kernel: Callable[[str], Path],
    ramdisk: Ramdisk,
    workload: Path,
    version: str,
    vcpus: int,
    shim: str,
    work: str,
) -> None:
    image = ramdisk(f'{work} && echo "[right]"; poweroff -f\n', workload)
    options = ("--cmdline", "console=hvc0 quiet", "--shim", shim, "--vcpus", str(vcpus))
    result = subprocess.run(
        [
            *(sys.executable, "-m", "tests.e2e.counted", "boot", debian_kernel(version)),
            *("--ramdisk", image, *options, "--timeout", str(LIMIT * SLOWNESS)),
        ],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * LIMIT * SLOWNESS,
    )
    assert result.returncode == 0, result.stderr
    assert "[right]" in result.stdout
    assert "tables are counted rightly" in result.stdout
