"""A guest that does not reset its watchdog ends as a crash, whatever else it does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.domain import LIMIT, Boot

FIRED = "kvmxen: the guest crashed: it did not reset its watchdog 1 in time\n"


@pytest.mark.parametrize("shim", ["dispatch", "exits"])
@pytest.mark.parametrize("hang", [1, 2])
def test_fires(boot: Boot, guest: Callable[[str], Path], shim: str, hang: int) -> None:
    domain = boot(
        guest("watchdog"), "--cmdline", f"hang={hang}", "--shim", shim, "--timeout", LIMIT
    )
    domain.ends(3)
    assert domain.stderr == FIRED
