"""The hostile guest does its host no harm.

KVMXEN_HOSTILE_ROUNDS sets the number of its calls, for each seed: a million is what it is for,
fewer keep the ordinary run short.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.domain import ROOT

ROUNDS = int(os.environ.get("KVMXEN_HOSTILE_ROUNDS", "50000"))
# What the guest may need for a call on a busy machine, in seconds.
CALL = 0.002


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.timeout(120 + ROUNDS * CALL)
def test_hostile(
    kvm: None, guest: Callable[[str], Path], environment: dict[str, str], seed: int
) -> None:
    options = f"seed={seed} rounds={ROUNDS}"
    result = subprocess.run(
        [sys.executable, "-m", "tests.guests.guarded", guest("hostile"), options],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60 + ROUNDS * CALL,
    )
    # It may crash itself; a signal would be ours.
    assert result.returncode in (0, 3), result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert ("SUCCESS" in result.stdout) == (result.returncode == 0)
    assert result.stdout.endswith("left: []\n")
