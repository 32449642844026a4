"""The processing of the lab's counts; `make bench-lab` does the counting."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lab import jobs, python, report
from benchmarks.lab.devices import REQUESTS
from benchmarks.lab.inside import _REASON
from benchmarks.page import PAGE, replace

ROOT = Path(__file__).parents[2]
STATS = {
    "exits": {"#GP": 30, "syscall": 5},
    "hypercalls": {"vcpu_op": 4},
    "guest_ns": 900_000_000,
    "run_ns": 1_000_000_000,
    "stages_ns": {"python": 10, "kernel": 30, "machine": 60, "domain": 100},
}


def result(scale: int) -> dict[str, Any]:
    exits = {"2": 1500 * scale, "6": 500 * scale, "all": 3000 * scale}
    own = {name: {"ns": 200, "exits": exits} for name in report.OWN}
    linux = {name: {"ns": 5000, "rounds": 10, "exits": exits} for name in report.OPERATIONS}
    devices = {
        name: {"ns": 5000, "rounds": 10, "instructions": 7000 * scale, "exits": exits}
        for name in REQUESTS
    }
    nothing = {"ns": 1, "rounds": 1, "instructions": 2000, "exits": {"2": 5, "all": 10}}
    boot = {"ns": scale * 10**9 + 7, "idle_ns": 7, "exits": exits}
    operations = own | linux | devices | {"nothing": nothing}
    return {"boot": boot, "operations": operations, "stats": STATS}


@pytest.fixture
def results() -> report.Results:
    return {name: result(n) for n, name in enumerate(jobs.commands(), 1)}


def test_every_column_has_its_job() -> None:
    linux = (report.KVMXEN, report.PEERS, report.FIRST, report.STAGED, report.DEVICES)
    shown = {job for heads in (*linux, [report.OWN_JOB]) for job in heads}
    assert shown == set(jobs.commands())


@pytest.mark.parametrize("section", report.SECTIONS)
def test_the_page_has_every_section(results: report.Results, section: str) -> None:
    replace((ROOT / PAGE).read_text(), section, report.SECTIONS[section](results))


def test_what_the_clock_jumped_over_is_no_instruction(results: report.Results) -> None:
    rows = report.boot({name: result(3) for name in results}).splitlines()[2:]
    assert rows[0].startswith("| **10^9 instructions to init** | 3.00 |")
    assert rows[1].startswith("| **exits to userspace** | 6,000 |")
    assert rows[2].endswith("| 9,000 |")


def test_operations_are_told_by_the_round(results: report.Results) -> None:
    rows = report.operations({name: result(1) for name in results}).splitlines()[2:]
    assert rows[0].startswith("| system call (`getppid`) | 500 (200.00) | 500 (200.00) |")
    assert rows[-1].startswith("| event to itself | 200 (0.40) | - | - | - | - |")


def test_requests_are_told_without_what_a_guest_takes_that_does_nothing(
    results: report.Results,
) -> None:
    results["kvmxen-devices"], results["pv-shim-devices"] = result(1), result(2)
    rows = report.devices(results).splitlines()[2:]
    assert rows[0] == (
        "| 4 KiB random read, depth 1 | 500 | 1,200 | 0.42 | 199.50 / 399.50 | 299.00 / 599.00 |"
    )
    assert len(rows) == len(REQUESTS)


def test_stages_are_between_their_ends() -> None:
    assert list(report.stages({"stats": STATS}).values()) == [1e-5, 2e-5, 3e-5, 4e-5, 900, 100]


def test_a_histogram_of_the_kernels_is_read() -> None:
    text = "{ reason:          2 } hitcount:       1535\n{ reason: 34 } hitcount: 412\n"
    assert _REASON.findall(text) == [("2", "1535"), ("34", "412")]


def test_what_is_installed_is_what_a_boot_imports() -> None:
    names = {folder.name for folder in python.dependencies("kvmxen")}
    assert {"click", "construct", "elftools", "rich"} <= names
    assert "pytest" not in names


def test_sources_come_compiled(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    for name in ("a.py", "b.pyx", "c.so", "tests/d.py"):
        (tmp_path / name).write_text("x = 1\n")
    entries = {entry.path: entry for entry in python.files(tmp_path, Path("/site/p"))}
    cached = importlib.util.cache_from_source("/site/p/a.py")
    assert set(entries) == {"/site/p/a.py", cached, "/site/p/c.so"}
    assert entries[cached].content.startswith(importlib.util.MAGIC_NUMBER)
