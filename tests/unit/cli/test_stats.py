"""--stats: the figures of a run, as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from kvmxen.cli.stats import Stats
from kvmxen.domain.figures import figures
from kvmxen.errors import KvmxenError
from kvmxen.pv.hypercalls.table import hypercall
from kvmxen.xen.abi.xen import Hypercall
from tests.unit.forged import Domain


@pytest.fixture
def domain() -> Iterator[Domain]:
    domain = Domain(2)
    for _ in range(3):
        domain.hypercall(Hypercall.xen_version)
    domain.hypercall(Hypercall.sched_op, 0)
    hypercall(domain.cpus[1], Hypercall.xen_version, [0] * 6)
    domain.hypercall(4711)
    domain.machine.events.notify(domain.machine.events.open_backend())
    domain.machine.grants.seed(1, domain.layout.mfn(7))
    domain.machine.grants.map_frame(1, True)
    yield domain
    domain.machine.close()


def taken(domain: Domain) -> dict[str, object]:
    return figures(domain.machine, {"vif/0": {"kicks": 3}}, build_ns=1, run_ns=2)


def report(domain: Domain, kind: Literal["text", "json"] | None) -> None:
    Stats(kind).report(taken(domain))


def test_json(domain: Domain, capsys: pytest.CaptureFixture[str]) -> None:
    report(domain, "json")
    figures = json.loads(capsys.readouterr().err)
    # The most frequent first, over all vCPUs.
    assert next(iter(figures["hypercalls"].items())) == ("xen_version", 4)
    assert figures["hypercalls"]["sched_op"] == 1
    assert sum(figures["hypercalls"].values()) == 6
    assert figures["exits"] == {}
    assert figures["exits_total"] == 0
    assert figures["events"] == {"sent": 0, "delivered": 1}
    assert figures["grants"] == {"version": 1, "frames": 1, "pinned": 1, "mapped_by_guest": 0}
    assert figures["vif/0"] == {"kicks": 3}
    assert figures["max_rss_kib"] > 0
    assert (figures["build_ns"], figures["run_ns"]) == (1, 2)


def test_json_in_a_file(domain: Domain, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "stats"
    path.write_text("of another boot")
    with Stats("json", path) as stats:
        for _ in range(2):
            stats.report(taken(domain))
    # A line for each run.
    runs = [json.loads(line) for line in path.read_text().splitlines()]
    assert [run["hypercalls"]["sched_op"] for run in runs] == [1, 1]
    assert capsys.readouterr().err == ""


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    stats = Stats("json", tmp_path)
    with pytest.raises(KvmxenError, match=r"Is a directory; choose another file$"), stats:
        pass


def test_a_file_on_a_full_disk(capsys: pytest.CaptureFixture[str]) -> None:
    with Stats("json", Path("/dev/full")) as stats:
        stats.report({})
    assert capsys.readouterr().err == (
        "kvmxen: cannot write the --stats file /dev/full: No space left on device\n"
    )


def test_text(domain: Domain, capsys: pytest.CaptureFixture[str]) -> None:
    report(domain, "text")
    lines = capsys.readouterr().err.splitlines()
    assert "hypercalls:" in lines
    assert "  xen_version" + " " * 33 + "4" in lines
    assert any(line.startswith("run ") and line.endswith(" s") for line in lines)


def test_nothing_unless_asked_for(domain: Domain, capsys: pytest.CaptureFixture[str]) -> None:
    report(domain, None)
    assert capsys.readouterr().err == ""
