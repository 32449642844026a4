"""How the lab is assembled; `make lab` runs the lab itself."""

from __future__ import annotations

import lzma
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from kvmxen.errors import KvmxenError
from tests import packages
from tests.lab import __main__ as lab
from tests.lab import modules, qemu
from tests.lab.__main__ import ROOT, environment
from tests.lab.progress import DONE_VARIABLE, line
from tests.lab.rotation import PARTS, is_in

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


def test_every_test_is_in_one_part_and_the_labs_in_all() -> None:
    names = [f"tests/guests/test_guests.py::test_guest[{n}]" for n in range(100)]
    parts = [{name for name in names if is_in(part, name)} for part in range(PARTS)]
    assert sorted(name for part in parts for name in part) == sorted(names)
    assert min(map(len, parts)) > 20
    assert all(is_in(part, "tests/lab/test_inside.py::test_it") for part in range(PARTS))


PANIC = "[  9.3] int3: 0000 [#1] PREEMPT SMP\n[  9.4] Kernel panic - not syncing: Fatal exception\n"


class Machines:
    """Stands in for the lab: each machine ends as the next of `ends` says."""

    def __init__(self, *ends: qemu.End) -> None:
        self._ends = list(ends)
        self.commands: list[str] = []

    def __call__(self, version: str, command: str, *, silence: float) -> qemu.End:
        self.commands.append(command)
        return self._ends.pop(0)


def run_tests(monkeypatch: pytest.MonkeyPatch, *ends: qemu.End) -> tuple[int, list[str]]:
    machines = Machines(*ends)
    monkeypatch.setattr(lab, "run", machines)
    return lab.tests("6.1", "", ["pytest"]), machines.commands


def test_a_panic_of_the_labs_kernel_ends_no_tests(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = f"{line('a.py::b[2-x y]', passed=True)}[  9.1] all is well\n{PANIC}"
    ends = qemu.End(log, None), qemu.End("lab: exit status 0\n", 0)
    status, commands = run_tests(monkeypatch, *ends)
    assert status == 0
    assert f"export {DONE_VARIABLE}='a.py::b[2-x y]'\n" in commands[1]
    out = capsys.readouterr().out
    assert "int3: 0000" in out
    assert "all is well" not in out


def test_a_failure_before_the_panic_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    log = line("a.py::b", passed=False) + PANIC
    assert run_tests(monkeypatch, qemu.End(log, None), qemu.End("", 0))[0] == 1


def test_a_panic_after_the_last_test(monkeypatch: pytest.MonkeyPatch) -> None:
    log = line("a.py::b", passed=True) + PANIC
    assert (
        run_tests(
            monkeypatch, qemu.End(log, None), qemu.End("", pytest.ExitCode.NO_TESTS_COLLECTED)
        )[0]
        == 0
    )


def test_no_tests_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        run_tests(monkeypatch, qemu.End("", pytest.ExitCode.NO_TESTS_COLLECTED))[0]
        == pytest.ExitCode.NO_TESTS_COLLECTED
    )


def test_every_machine_may_not_die(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KvmxenError, match="3 of the lab's machines died"):
        run_tests(monkeypatch, *[qemu.End(PANIC, None)] * 3)


@pytest.mark.parametrize(
    ("lines", "silence"), [(PANIC, 1000), ("[  9.1] all is well\n", 0.01)], ids=["panic", "hang"]
)
def test_a_machine_that_does_not_end_is_ended(
    lines: str, silence: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(qemu, "_LOOK", 0.01)
    monkeypatch.setattr(qemu, "_PANICKING", 0.01)
    monkeypatch.setattr(qemu, "initramfs", lambda version, command: b"")
    fake = tmp_path / "qemu-system-x86_64"
    fake.write_text("#!/bin/sh\nexec sleep 1000\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def command(version: str, image: Path, log: Path) -> list[str]:
        log.write_text(lines)
        return [str(fake)]

    monkeypatch.setattr(qemu, "_arguments", command)
    end = qemu.run("6.1", "true", silence=silence)
    assert end.status is None
    assert end.log == lines


def test_a_host_with_no_qemu_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(KvmxenError, match="apt-get install qemu-system-x86"):
        qemu.run("6.1", "true")
