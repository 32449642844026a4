"""Writes when each test began and how it ended to the lab's log, which outlives the lab's machine.

A plugin for pytest (-p tests.lab.progress). It leaves out the tests that ended in an earlier
machine.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

# The names of the tests that ended, a line each.
DONE_VARIABLE = "KVMXEN_LAB_DONE"
LOG = Path("/dev/ttyS1")
_LINE = re.compile(r"^lab: (passed|failed) (\S.*)$", re.M)
_failed: set[str] = set()


def line(name: str, *, passed: bool) -> str:
    """The log's line about the test `name`."""
    return f"lab: {'passed' if passed else 'failed'} {name}\n"


def ended(log: str) -> dict[str, bool]:
    """The tests that ended according to `log`, and whether each passed; a skipped one did."""
    return {name: outcome == "passed" for outcome, name in _LINE.findall(log)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    done = set(os.environ.get(DONE_VARIABLE, "").splitlines())
    items[:] = [item for item in items if item.nodeid not in done]


def pytest_runtest_logstart(nodeid: str) -> None:
    LOG.write_text(f"lab: begins {nodeid}\n")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> object:
    result = yield
    LOG.write_text(line(item.nodeid, passed=item.nodeid not in _failed))
    return result


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        _failed.add(report.nodeid)
