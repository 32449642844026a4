"""A kernel that writes into the shim where it can ends itself, not the host's process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kvmxen.pv.shim.abi import constants
from kvmxen.pv.shim.plan import plan
from tests.e2e.domain import Boot

MIB = 1 << 20
MEMORY = 64


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("vcpus", [1, 2])
def test_scribble(boot: Boot, guest: Callable[[str], Path], vcpus: int, seed: int) -> None:
    parts = plan(MEMORY * MIB, vcpus).xenheap_gpa - vcpus * constants()["VCPU_SIZE"]
    domain = boot(
        guest("scribble"),
        *("--memory", f"{MEMORY}M", "--vcpus", vcpus, "--timeout", 10),
        *("--cmdline", f"parts={parts} seed={seed}"),
    )
    # It may crash or hang itself; a traceback or a signal would be our fault.
    assert domain.wait() in (0, 3, 4), domain.stderr + domain.output
    assert "Traceback" not in domain.stderr
