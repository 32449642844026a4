"""The KVM inside the lab behaves as in the manuals; the suite then runs on it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.lab.__main__ import KERNEL_VARIABLE

pytestmark = pytest.mark.skipif(KERNEL_VARIABLE not in os.environ, reason="needs the lab: make lab")


@pytest.fixture(scope="module")
def diagnosis() -> list[str]:
    command = [sys.executable, "-m", "kvmxen", "doctor"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.splitlines()


@pytest.mark.parametrize(
    "finding",
    [
        "page tables: by the hardware",
        "SYSCALL: enters ring 0",
        "CPUID: filtered (",
        "segments: kept",
        "needed capabilities: all present",
    ],
)
def test_this_kvm_is_the_hardwares_kind(diagnosis: list[str], finding: str) -> None:
    assert [line for line in diagnosis if line.startswith(finding)], diagnosis


def test_kvm_xen_is_debian_13s(diagnosis: list[str]) -> None:
    has = {"6.1": "no", "6.12": "yes"}[os.environ[KERNEL_VARIABLE]]
    assert [line for line in diagnosis if line.startswith(f"KVM_CAP_XEN_HVM: {has}")], diagnosis
