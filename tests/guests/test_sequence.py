"""The dispatcher and the mode where every trap is an exit leave the same guest behind.

KVMXEN_SEQUENCE_SEEDS sets how many sequences, each from its seed, are compared, and
KVMXEN_SEQUENCE_VCPUS ("1,2") with how many vCPUs, of which one does everything. To find a
difference, boot tests/guests/sequence with `seed=N verbose=1` both ways and compare the outputs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.domain import LIMIT, SLOWNESS, Boot

SEEDS = int(os.environ.get("KVMXEN_SEQUENCE_SEEDS", "4"))
VCPUS = [int(word) for word in os.environ.get("KVMXEN_SEQUENCE_VCPUS", "1").split(",")]
# Batches of operations.
ROUNDS = max(2, 25 // SLOWNESS)


def run(boot: Boot, kernel: Path, shim: str, seed: int, vcpus: int) -> str:
    domain = boot(
        kernel,
        *("--memory", "64M", "--vcpus", vcpus, "--shim", shim, "--timeout", LIMIT),
        *("--console", "stdio", "--cmdline", f"seed={seed} rounds={ROUNDS}"),
    )
    domain.ends(0)
    assert domain.output.endswith("SUCCESS\n")
    return domain.output


@pytest.mark.timeout(300 * SLOWNESS)
@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("vcpus", VCPUS)
def test_sequence(boot: Boot, guest: Callable[[str], Path], vcpus: int, seed: int) -> None:
    kernel = guest("sequence")
    dispatched = run(boot, kernel, "dispatch", seed, vcpus)
    assert dispatched.splitlines() == run(boot, kernel, "exits", seed, vcpus).splitlines()
