"""The hostile guest does its host no harm.

KVMXEN_HOSTILE_ROUNDS sets the number of calls for each seed: the guest is meant for a million; the
ordinary run has fewer, to be short.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.domain import ROOT, SLOWNESS

ROUNDS = int(os.environ.get("KVMXEN_HOSTILE_ROUNDS", "50000"))
# The host memory that it may use, in KiB: mapped grants, xenstore nodes, Python's own.
GROWTH = 64 << 10
# The time that the guest may need on a busy machine, in seconds: to start and end, and for a call.
ONCE = 60 * SLOWNESS
CALL = 0.002 * SLOWNESS


@pytest.mark.parametrize(("seed", "vcpus"), [(1, 1), (2, 1), (3, 1), (4, 2), (5, 4), (6, 4)])
@pytest.mark.timeout(2 * ONCE + ROUNDS * CALL)
def test_hostile(
    kvm: None, guest: Callable[[str], Path], environment: dict[str, str], seed: int, vcpus: int
) -> None:
    options = f"seed={seed} rounds={ROUNDS // vcpus}"
    result = subprocess.run(
        [sys.executable, "-m", "tests.guests.guarded", guest("hostile"), options, str(vcpus)],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=ONCE + ROUNDS * CALL,
    )
    # It may crash itself; a signal would be our fault.
    assert result.returncode in (0, 3), result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert ("SUCCESS" in result.stdout) == (result.returncode == 0)
    grown = re.fullmatch(r".*grown: (\d+) KiB\nleft: \[\]\n", result.stdout, re.DOTALL)
    assert grown, result.stdout[-2000:]
    assert int(grown[1]) < GROWTH
