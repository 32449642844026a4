"""A forged domain for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.forged import Domain


@pytest.fixture
def domain() -> Iterator[Domain]:
    """Two vCPUs, the first one up."""
    domain = Domain(2)
    yield domain
    domain.machine.close()
