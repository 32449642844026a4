"""A person without access to /dev/kvm is told what to do, even before anything is built."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kvmxen.kvm.access import DEVICE, missing, no_permission

ROOT = Path(__file__).parents[3]


def status(mode: int, gid: int) -> os.stat_result:
    return os.stat_result((mode, 0, 0, 1, 0, gid, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("cpuinfo", "advice"),
    [
        ("flags\t\t: fpu vmx sse", "modprobe kvm_intel"),
        ("processor\t: 0\nflags\t\t: fpu svm", "modprobe kvm_amd"),
        ("flags\t\t: fpu vmxoff", "in the firmware"),
        ("", "in the firmware"),
    ],
)
def test_a_missing_device_has_a_way_out(cpuinfo: str, advice: str) -> None:
    assert advice in missing(DEVICE, cpuinfo)


def test_who_is_not_in_the_devices_group_can_join_it() -> None:
    advice = no_permission(DEVICE, status(0o660, 65_432), 65_431)
    assert "usermod -aG group 65432 65431" in advice
    assert "setfacl -m u:65431:rw /dev/kvm" in advice


@pytest.mark.parametrize("who", [status(0o600, 65_432), status(0o660, 0), status(0o640, 65_432)])
def test_a_group_that_does_not_help_is_not_advised(who: os.stat_result) -> None:
    advice = no_permission(DEVICE, who, 65_431)
    assert "usermod" not in advice
    assert "setfacl -m u:65431:rw /dev/kvm" in advice


def test_root_without_permission_is_in_a_container() -> None:
    assert "container" in no_permission(DEVICE, status(0o600, 0), 0)


@pytest.mark.parametrize("command", ["python", "make"])
def test_it_is_said_before_anything_is_built(tmp_path: Path, command: str) -> None:
    """In a copy of the sources with nothing built, and a Python without packages."""
    package = tmp_path / "kvmxen"
    (package / "kvm").mkdir(parents=True)
    for name in ("__init__.py", "errors.py", "streams.py", "kvm/__init__.py", "kvm/access.py"):
        shutil.copyfile(ROOT / "kvmxen" / name, package / name)
    shutil.copyfile(ROOT / "Makefile", tmp_path / "Makefile")
    access = package / "kvm/access.py"
    access.write_text(access.read_text().replace('/dev/kvm"', f'{tmp_path}/kvm"'))
    commands = {
        "python": [sys.executable, "-S", "-m", "kvmxen.kvm.access"],
        "make": ["make", "-s", "boot", f"PYTHON={sys.executable}"],
    }
    # Under `make test`, this would be a make within a make, which calls itself make[1].
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        commands[command], cwd=tmp_path, env=outside, capture_output=True, text=True
    )
    sentence, *rest = done.stderr.splitlines()
    assert sentence.startswith(f"kvmxen: this host has no {tmp_path}/kvm")
    assert done.returncode == {"python": 1, "make": 2}[command]
    assert all(line.startswith("make: ***") for line in rest)
