"""A guest's most frequent operations cost no exit: twice as many of them cost no more."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.domain import LIMIT, Boot

ROUNDS = 2000
# Exits for other reasons: the console's events, a signal.
OTHERS = 200
# Operations between two vCPUs.
TWO = ("ipis", "flushes")


def exits(boot: Boot, kernel: Path, what: str, rounds: int, shim: str) -> int:
    domain = boot(
        kernel,
        *("--shim", shim, "--stats=json", "--console", "stdio", "--timeout", LIMIT),
        *("--cmdline", f"{what}={rounds}", "--vcpus", 2 if what in TWO else 1),
    )
    domain.ends(0)
    assert domain.output.endswith("SUCCESS\n")
    total = json.loads(domain.stderr)["exits_total"]
    assert isinstance(total, int)
    return total


def more(boot: Boot, kernel: Path, what: str, shim: str) -> int:
    """The exits that ROUNDS times `what` adds."""
    once, twice = (exits(boot, kernel, what, ROUNDS * n, shim) for n in (1, 2))
    return twice - once


@pytest.mark.parametrize(
    ("what", "most"),
    [
        ("syscalls", 0),
        ("switches", 0),
        ("faults", 1),
        ("copies", 0),
        ("stores", 0),
        ("events", 0),
        pytest.param("waits", 0, marks=pytest.mark.needs_ring0),
        pytest.param("ipis", 0, marks=pytest.mark.needs_ring0),
        pytest.param("flushes", 0, marks=pytest.mark.needs_ring0),
    ],
)
def test_counts(boot: Boot, guest: Callable[[str], Path], what: str, most: int) -> None:
    assert more(boot, guest("counts"), what, "dispatch") <= most * ROUNDS + OTHERS
    # This checks the check.
    assert more(boot, guest("counts"), what, "exits") >= ROUNDS


@pytest.mark.parametrize(("shim", "most"), [("dispatch", 0), ("exits", 1)])
def test_reads_of_the_m2p(boot: Boot, guest: Callable[[str], Path], shim: str, most: int) -> None:
    """The default place of the table, which on some hosts ring 3 cannot reach."""
    assert more(boot, guest("counts"), "reads", shim) <= most * ROUNDS + OTHERS
