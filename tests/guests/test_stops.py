"""A domain can be ended at any time, whatever its guest does."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.domain import LIMIT, Boot

Guest = Callable[[str], Path]
pytestmark = pytest.mark.parametrize("shim", ["dispatch", "exits"])


@pytest.fixture
def options(shim: str) -> tuple[str, ...]:
    return "--shim", shim, "--console", "stdio", "--cmdline", "tables=1000"


def test_the_timeout_ends_a_hypercall(boot: Boot, guest: Guest, options: tuple[str, ...]) -> None:
    domain = boot(guest("endless"), *options, "--timeout", 20)
    domain.expect("endless\n")
    domain.ends(4)


def test_a_signal_ends_a_hypercall(boot: Boot, guest: Guest, options: tuple[str, ...]) -> None:
    domain = boot(guest("endless"), *options, "--timeout", LIMIT)
    domain.expect("endless\n")
    domain.process.send_signal(signal.SIGTERM)
    domain.expect_stderr("repeat to destroy it")
    domain.process.send_signal(signal.SIGTERM)
    domain.ends(130)
