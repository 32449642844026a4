"""Fixtures for all tests: real guests, from Debian's packages."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import packages, resources

# The machine may be busy, so a slow example is no failure. Each run has the same examples;
# HYPOTHESIS_PROFILE=others generates new ones each time.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", UNHURRIED, derandomize=True)
settings.register_profile("others", UNHURRIED)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


FAILED = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers that state a test's needs."""
    # Under nohup, SIGHUP would be ignored, also by the processes that tests start.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for name, what in resources.NEEDS.items():
        config.addinivalue_line("markers", f"{name}: needs {what}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that needs something that this machine lacks."""
    for name, what in resources.NEEDS.items():
        if item.get_closest_marker(name) and name not in resources.found():
            pytest.skip(f"needs {what}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Record in `item.stash[FAILED]` whether the test failed, for the end of its fixtures."""
    report = yield
    item.stash[FAILED] = report.failed
    return report


def need(what: str, fetch: Callable[[], Path]) -> Path:
    """The file that `fetch` gets; skips the test, which needs `what`, if it cannot be had."""
    try:
        return fetch()
    except packages.Unavailable as error:
        pytest.skip(f"needs {what}: {error}")


@pytest.fixture(scope="session")
def debian_kernel() -> Callable[[str], Path]:
    """debian_kernel("6.1") or ("6.12"): the bzImage of Debian 12's or 13's current kernel."""
    return lambda version: need(
        f"Debian's kernel {version}", lambda: packages.debian_kernel(version)
    )


@pytest.fixture(scope="session")
def pv_grub() -> Path:
    """The 64-bit PV GRUB, an ELF kernel."""
    return need("Debian's PV GRUB", packages.pv_grub)


@pytest.fixture(scope="session")
def busybox() -> Path:
    """A statically linked busybox."""
    return need("Debian's static busybox", packages.busybox)
