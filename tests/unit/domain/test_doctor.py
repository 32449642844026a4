from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvmxen.cli import main
from kvmxen.domain import doctor
from kvmxen.domain.doctor import Diagnosis, Finding, examine, probed, used_by_programs
from kvmxen.errors import KvmxenError
from kvmxen.kvm.access import DEVICE
from kvmxen.pv.features import Features, Filter
from kvmxen.pv.probe import Probe
from kvmxen.pv.programs import Programs


def found(diagnosis: Diagnosis) -> dict[str, str]:
    return {finding.what: finding.found for finding in diagnosis.findings}


def test_a_host_without_the_device(tmp_path: Path) -> None:
    diagnosis = examine(tmp_path / "kvm")
    assert diagnosis.obstacle
    assert f"this host has no {tmp_path}/kvm" in diagnosis.obstacle
    assert found(diagnosis)["64-bit PV guests"] == "no"
    assert found(diagnosis)["memory"].endswith(" MiB free")
    assert "busybox" in found(diagnosis)
    assert "device" not in found(diagnosis)


def test_a_file_that_is_not_kvm(tmp_path: Path) -> None:
    path = tmp_path / "kvm"
    path.touch()
    assert examine(path).obstacle == f"{path} is not a KVM device; load the kvm module"


def test_the_error_that_points_here_does_not_do_so_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_device: Path) -> None:
        raise KvmxenError("KVM_CREATE_VM failed: no memory; see 'kvmxen doctor'")

    monkeypatch.setattr(doctor, "System", refuse)
    assert examine(Path("/dev/null")).obstacle == "KVM_CREATE_VM failed: no memory"


@pytest.mark.skipif(os.geteuid() == 0, reason="needs a user who is not root")
def test_a_device_that_may_not_be_opened(tmp_path: Path) -> None:
    path = tmp_path / "kvm"
    path.touch(0)
    assert f"you may not open {path}" in (examine(path).obstacle or "")


def test_each_kind_of_kvm_has_its_words() -> None:
    usual_kvm = Probe(True, True, True, False, Features(Filter.WHOLE, True, ()))
    software_kvm = Probe(False, False, False, True, Features(Filter.NONE, False, ()))
    usual = {f.what: f.found for f in probed(usual_kvm)}
    software = {f.what: f.found for f in probed(software_kvm)}
    assert usual == {
        "page tables": "by the hardware",
        "SYSCALL": "enters ring 0",
        "CPUID": "filtered",
    }
    assert software == {
        "page tables": "shadowed by KVM",
        "SYSCALL": "stays in ring 3",
        "CPUID": "not filtered",
        "L4 slot 256": "out of reach of ring 3",
    }
    (price,) = (f.means for f in probed(software_kvm) if f.what == "L4 slot 256")
    assert "each read traps" in price


def test_what_programs_lack_is_told() -> None:
    for has in (True, False):
        found = {f.what: f for f in used_by_programs(Programs(breakpoints=has, segments=not has))}
        breakpoints, segments = found["hardware breakpoints"], found["segments"]
        assert breakpoints.found == ("work" if has else "never trigger")
        assert segments.found == ("lost" if has else "kept")
        assert ("this host's KVM" in breakpoints.means) != ("this host's KVM" in segments.means)


@pytest.mark.parametrize("filter_", Filter)
def test_cpuid_is_told_as_it_was_found(filter_: Filter) -> None:
    probe = Probe(True, True, True, False, Features(filter_, True, ()))
    finding = next(f for f in probed(probe) if f.what == "CPUID")
    assert finding.found == filter_.value
    assert ("own features" in finding.means) == (filter_ is not Filter.WHOLE)


def test_a_good_host(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [Finding("device", "/dev/kvm", "present"), Finding("KVM API", "12")]
    monkeypatch.setattr(doctor, "examine", lambda: Diagnosis(findings, None))
    assert main(["doctor"]) == 0
    assert capsys.readouterr() == ("device: /dev/kvm (present)\nKVM API: 12\n", "")


def test_a_bad_host(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [Finding("64-bit PV guests", "no")]
    monkeypatch.setattr(doctor, "examine", lambda: Diagnosis(findings, "get another host"))
    assert main(["doctor"]) == 1
    assert capsys.readouterr() == ("64-bit PV guests: no\n", "kvmxen: get another host\n")


def test_a_terminal_gets_a_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = [Finding("device", "/dev/[kvm]", "present")]
    monkeypatch.setattr(doctor, "examine", lambda: Diagnosis(findings, None))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "device" in out
    assert "/dev/[kvm]" in out
    assert "present" in out


@pytest.mark.skipif(not os.access(DEVICE, os.R_OK | os.W_OK), reason="needs access to /dev/kvm")
def test_this_host() -> None:
    diagnosis = examine()
    assert diagnosis.obstacle is None
    report = found(diagnosis)
    assert report["64-bit PV guests"] == "run"
    assert report["needed capabilities"] == "all present"
    assert int(report["speed"].removesuffix(" exits/s").replace(",", "")) > 100
