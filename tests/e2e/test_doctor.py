"""doctor's predictions come true."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmxen.domain.doctor import EXITS_OF_A_BOOT, EXITS_WITHOUT_DISPATCHER
from tests.e2e.domain import LIMIT, Boot, Ramdisk


@pytest.mark.parametrize(
    ("shim", "foretold"), [("dispatch", EXITS_OF_A_BOOT), ("exits", EXITS_WITHOUT_DISPATCHER)]
)
def test_the_exits_of_a_boot(
    boot: Boot, debian_kernel: Callable[[str], Path], ramdisk: Ramdisk, shim: str, foretold: int
) -> None:
    """Nearly equal: on a slow or busy host the same boot has more ticks of the guest's timer."""
    options = ("--shim", shim, "--stats=json", "--timeout", LIMIT)
    domain = boot(debian_kernel("6.1"), "--ramdisk", ramdisk("poweroff -f"), *options)
    domain.ends(0)
    assert foretold / 2 < json.loads(domain.stderr)["exits_total"] < foretold * 4
