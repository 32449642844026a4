"""kvmxen create: domains from xl's files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.test_background import Run, listed, run, states, until

__all__ = ["run"]


@pytest.fixture
def file(tmp_path: Path, pv_grub: Path) -> Path:
    file = tmp_path / "web.cfg"
    file.write_text(f'name = "web"\nkernel = "{pv_grub}"\nmemory = 64\nacpi = 1\n')
    return file


def test_a_domain_from_a_file(run: Run, file: Path) -> None:
    created = run("create", file, "vcpus=2")
    assert created.stderr == ""
    (one,) = listed(run)
    assert (one["name"], one["memory"], one["state"]) == ("web", 64, "running")
    run("destroy", "web")
    run("create", file, "-p")
    assert states(run) == {"web": "paused"}
    run("unpause", "web")
    assert states(run) == {"web": "running"}


def test_what_was_read(run: Run, file: Path) -> None:
    told = run("create", "-n", "-v", file, "maxmem=128", "memroy=1")
    found = json.loads(told.stdout)
    assert found["c_info"] == {"type": "pv", "name": "web"}
    assert (found["b_info"]["target_memkb"], found["b_info"]["max_memkb"]) == (64 << 10, 128 << 10)
    assert "unknown key memroy, ignored; is memory meant?" in told.stderr
    assert "web.cfg:4: acpi means nothing" in told.stderr
    assert run("create", "-n", "-q", file, "memroy=1").stderr == ""
    assert listed(run) == []


def test_a_wrong_file(run: Run, file: Path, tmp_path: Path) -> None:
    refused = run("create", file, "memory=64*2", status=2)
    assert refused.stderr.count("\n") == 1
    assert "the argument 'memory=64*2': the end of the line is expected" in refused.stderr
    assert "No such file" in run("create", tmp_path / "absent", status=1).stderr


def test_in_the_foreground(run: Run, tmp_path: Path) -> None:
    import kvmxen.guests

    demo = Path(kvmxen.guests.__file__).with_name("demo.elf")
    file = tmp_path / "demo.cfg"
    file.write_text(f'name = "demo"\nkernel = "{demo}"\n')
    assert "null hypercall" in run("create", "-F", file).stdout
    # With -c it ends with the domain.
    assert "null hypercall" in run("create", "-c", file).stdout
    until(lambda: listed(run) == [])
