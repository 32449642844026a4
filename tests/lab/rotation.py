"""Runs half of the lab's tests: one half on even days, the other on odd ones.

A plugin for pytest (-p tests.lab.rotation). All of the tests take an hour. Those in tests/lab show
what the lab's KVM is, and always run.
"""

from __future__ import annotations

import os
import zlib

import pytest

HALF_VARIABLE = "KVMXEN_LAB_HALF"


def is_in(half: int, name: str) -> bool:
    """Whether the test `name` is in the `half` 0 or 1."""
    return name.startswith("tests/lab/") or zlib.crc32(name.encode()) % 2 == half


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    half = int(os.environ[HALF_VARIABLE])
    others = [item for item in items if not is_in(half, item.nodeid)]
    items[:] = [item for item in items if is_in(half, item.nodeid)]
    config.hook.pytest_deselected(items=others)
