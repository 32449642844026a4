"""The machine-to-physical table, where guests that do not ask for it look for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.domain import LIMIT, Boot


@pytest.mark.parametrize("shim", ["dispatch", "exits"])
@pytest.mark.parametrize("vcpus", [1, 2])
def test_m2p(boot: Boot, guest: Callable[[str], Path], shim: str, vcpus: int) -> None:
    domain = boot(guest("m2p"), "--vcpus", vcpus, "--shim", shim, "--timeout", LIMIT)
    domain.ends(0)
    assert domain.output.endswith("SUCCESS\n")
    assert domain.stderr == ""
