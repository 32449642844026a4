"""User code reaches neither the shim nor its kernel, wherever the dispatcher runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kvmxen.pv.shim.abi import constants
from kvmxen.pv.shim.plan import plan
from tests.e2e.domain import LIMIT, Boot

MIB = 1 << 20
MEMORY = 64


@pytest.mark.parametrize("shim", ["dispatch", "exits"])
@pytest.mark.parametrize("vcpus", [1, 2])
def test_confined(boot: Boot, guest: Callable[[str], Path], shim: str, vcpus: int) -> None:
    xenheap = plan(MEMORY * MIB, vcpus).xenheap_gpa
    parts = xenheap - vcpus * constants()["VCPU_SIZE"]
    domain = boot(
        guest("confined"),
        *("--memory", f"{MEMORY}M", "--vcpus", vcpus, "--shim", shim, "--timeout", LIMIT),
        *("--cmdline", f"parts={parts} xenheap={xenheap}"),
    )
    domain.ends(0)
    assert domain.output.endswith("SUCCESS\n")
    assert domain.stderr == ""
