"""The dispatcher and the way in which every trap is an exit leave the same guest behind.

KVMXEN_SEQUENCE_SEEDS sets how many sequences, each from its seed, are compared. To find what
differs, boot tests/guests/sequence with `seed=N verbose=1` both ways and compare the outputs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.domain import Boot

SEEDS = int(os.environ.get("KVMXEN_SEQUENCE_SEEDS", "4"))


def run(boot: Boot, kernel: Path, shim: str, seed: int, vcpus: int) -> str:
    domain = boot(
        kernel,
        *("--memory", "64M", "--vcpus", vcpus, "--shim", shim, "--timeout", 110),
        *("--console", "stdio", "--cmdline", f"seed={seed} rounds=25"),
    )
    assert domain.wait() == 0, domain.stderr + domain.output
    assert domain.output.endswith("SUCCESS\n")
    return domain.output


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("vcpus", [1, 2])
def test_sequence(boot: Boot, guest: Callable[[str], Path], vcpus: int, seed: int) -> None:
    kernel = guest("sequence")
    dispatched = run(boot, kernel, "dispatch", seed, vcpus)
    assert dispatched.splitlines() == run(boot, kernel, "exits", seed, vcpus).splitlines()
