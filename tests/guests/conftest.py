"""Fixtures for guests of our own: compiled, and booted from the command line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmxen.guests._build import compile_guest
from tests.e2e.conftest import boot, cache, environment, kvm

__all__ = ["boot", "cache", "environment", "kvm"]

FOLDER = Path(__file__).parent


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """guest("smp"): the ELF kernel from the sources in the folder of that name."""
    if not shutil.which("gcc"):
        pytest.skip("needs gcc")
    out = tmp_path_factory.mktemp("guests")

    def build(name: str) -> Path:
        elf = out / name
        if not elf.exists():
            folder = FOLDER / name
            compile_guest(sorted([*folder.glob("*.c"), *folder.glob("*.S")]), elf)
        return elf

    return build
