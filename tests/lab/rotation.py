"""Runs a third of the lab's tests: another third each day.

A plugin for pytest (-p tests.lab.rotation). All of the tests take an hour. Those in tests/lab show
what the lab's KVM is, and always run.
"""

from __future__ import annotations

import os
import zlib

import pytest

PARTS = 3
PART_VARIABLE = "KVMXEN_LAB_PART"


def is_in(part: int, name: str) -> bool:
    """Whether the test `name` is in the `part`, of 0 to PARTS - 1."""
    return name.startswith("tests/lab/") or zlib.crc32(name.encode()) % PARTS == part


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    part = int(os.environ[PART_VARIABLE])
    others = [item for item in items if not is_in(part, item.nodeid)]
    items[:] = [item for item in items if is_in(part, item.nodeid)]
    config.hook.pytest_deselected(items=others)
