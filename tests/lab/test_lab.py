"""How the lab is assembled; `make lab` runs the lab itself."""

from __future__ import annotations

import lzma
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from kvmxen.errors import KvmxenError
from tests import packages
from tests.lab import modules, qemu
from tests.lab.__main__ import ROOT, environment
from tests.lab.rotation import is_in

NEEDS = {"virtio_pci": ["virtio_ring"], "kvm_amd": ["kvm", "ccp"], "kvm": ["irqbypass"]}


@pytest.fixture
def forged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Modules that contain only their names; KVM's are compressed."""

    def module(version: str, name: str) -> Path:
        if name.startswith("kvm"):
            path = tmp_path / f"{name}.ko.xz"
            path.write_bytes(lzma.compress(name.encode()))
        else:
            path = tmp_path / f"{name}.ko"
            path.write_bytes(name.encode())
        return path

    monkeypatch.setattr(packages, "debian_module", module)
    monkeypatch.setattr(packages, "builtin_modules", lambda version: {"overlay"})
    monkeypatch.setattr(modules, "dependencies", lambda image: NEEDS.get(image.decode(), []))


@pytest.mark.usefixtures("forged")
def test_modules_come_once_after_those_they_need() -> None:
    loaded = modules.modules("6.1", qemu.WANTED)
    names = [module.name.removesuffix(".ko") for module in loaded]
    assert len(set(names)) == len(names)
    assert set(names) == {*qemu.WANTED, "virtio_ring", "kvm", "ccp", "irqbypass"} - {"overlay"}
    for name, needed in NEEDS.items():
        assert all(names.index(other) < names.index(name) for other in needed)
    assert [module.image.decode() for module in loaded] == names


def test_the_environment_is_this_pythons() -> None:
    script = environment("6.1") + "pwd; command -v python3"
    result = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == [str(ROOT), str(Path(sys.executable).with_name("python3"))]
    assert all(shlex.split(line) for line in environment("6.1").splitlines())


def test_every_test_is_in_one_half_and_the_labs_in_both() -> None:
    names = [f"tests/guests/test_guests.py::test_guest[{n}]" for n in range(100)]
    halves = [{name for name in names if is_in(half, name)} for half in (0, 1)]
    assert halves[0] | halves[1] == set(names)
    assert not halves[0] & halves[1]
    assert min(map(len, halves)) > 30
    assert all(is_in(half, "tests/lab/test_inside.py::test_it") for half in (0, 1))


def test_a_host_with_no_qemu_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(KvmxenError, match="apt-get install qemu-system-x86"):
        qemu.run("6.1", "true")
