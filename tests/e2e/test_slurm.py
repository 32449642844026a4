"""Guests as the tasks of a Slurm array, by the script in examples/."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.domain import PATIENCE, ROOT
from tests.e2e.slurm import Slurm

SCRIPT = ROOT / "examples" / "slurm-array.sh"


@pytest.fixture
def slurm(kvm: None, environment: dict[str, str], tmp_path: Path) -> Iterator[Slurm]:
    slurm = Slurm(tmp_path / "slurm")
    programs = Path(sys.executable).parent
    slurm.environment |= environment | {
        "PATH": f"{programs}:{slurm.environment['PATH']}",
        "RESULTS": str(tmp_path / "results"),
    }
    yield slurm
    slurm.close()


def results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def test_each_task_of_an_array_is_a_guest(slurm: Slurm, tmp_path: Path) -> None:
    job = slurm.run("sbatch", "--parsable", "--array=0-8", SCRIPT).strip()
    assert job.isdigit()
    slurm.wait_until_empty()
    found = results(tmp_path / "results")
    assert {one["name"] for one in found} == {f"task-{job}-{task}" for task in range(9)}
    assert {(one["end"], one["status"]) for one in found} == {("poweroff", 0)}
    for task in range(9):
        console = (tmp_path / "results" / f"{job}-{task}.log").read_text()
        assert f"task={task}" in console
    assert not list((tmp_path / "run").glob("[!.]*"))


def test_scancel_shuts_a_guest_down(slurm: Slurm, pv_grub: Path, tmp_path: Path) -> None:
    """PV GRUB knows no shutdown: it is destroyed in time, and the result says so."""
    job = slurm.run(
        "sbatch", "--parsable", "--array=0-1", SCRIPT, pv_grub, "--shutdown-timeout", "1"
    ).strip()
    end = time.monotonic() + PATIENCE
    while len(list((tmp_path / "run").glob("task-*/control.sock"))) < 2:
        assert time.monotonic() < end
        time.sleep(0.1)
    slurm.run("scancel", job)
    slurm.wait_until_empty()
    found = results(tmp_path / "results")
    assert [one["status"] for one in found] == [130, 130]
    assert not list((tmp_path / "run").glob("[!.]*"))
