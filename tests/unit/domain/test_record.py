"""Who runs, and how the others ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from kvmxen.domain.record import (
    Identity,
    Record,
    read_identity,
    read_record,
    records,
    write_record,
)
from kvmxen.domain.rundir import RunDirectory, running
from kvmxen.errors import KvmxenError
from tests.unit.domain.test_rundir import HOLD


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "run"
    monkeypatch.setenv("KVMXEN_RUNTIME_DIR", str(folder))
    return folder


def record(name: str, at: float, end: str = "poweroff") -> Record:
    return Record(Identity(name, 7, UUID(int=9), 1, 2.5), at, end, "why", "a report\nof lines")


def test_domains_are_numbered_and_no_number_is_given_twice(root: Path) -> None:
    ids = []
    for _ in range(2):
        with RunDirectory("a") as one, RunDirectory("b") as two:
            ids += [one.identity.id, two.identity.id]
            assert [identity.name for identity in running(root)] == ["a", "b"]
            assert read_identity(one.path) == one.identity
    assert ids == [1, 2, 3, 4]
    assert running(root) == []


def test_a_lost_counter_begins_after_the_domains_that_run(root: Path) -> None:
    with RunDirectory("a"), RunDirectory("b"):
        (root / ".last-id").write_text("not a number")
        with RunDirectory("c") as third:
            assert third.identity.id == 3


def test_two_that_run_have_two_uuids(root: Path) -> None:
    uuid = uuid4()
    with RunDirectory("a", uuid=uuid) as one:
        assert one.identity.uuid == uuid
        with pytest.raises(KvmxenError, match=f"domain a has the UUID {uuid}"):
            RunDirectory("b", uuid=uuid).__enter__()
        assert [identity.name for identity in running(root)] == ["a"]
    with RunDirectory("b", uuid=uuid):
        pass


def test_a_killed_domain_is_recorded(root: Path) -> None:
    command = [sys.executable, "-c", HOLD, "held"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (identity,) = running(root)
        assert identity.pid == process.pid
        assert read_record(root, "held") is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert running(root) == []
    found = read_record(root, "held")
    assert found is not None
    assert (found.domain, found.end, found.report) == (identity, "killed", "")


def test_records_are_read_as_they_were_written(root: Path) -> None:
    root.mkdir()
    written = [record("b", 1.0), record("a", 2.0, "crash"), record("c.d", 3.0)]
    for one in reversed(written):
        write_record(root, one)
    assert records(root) == written
    assert read_record(root, "a") == written[1]
    write_record(root, record("a", 4.0))
    assert read_record(root, "a") == record("a", 4.0)


def test_the_oldest_records_go(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root.mkdir()
    monkeypatch.setattr("kvmxen.domain.record._KEPT", 3)
    for number in range(5):
        write_record(root, record(f"n{number}", float(number)))
        os.utime(root / ".ended" / f"n{number}.json", (number, number))
    assert [one.domain.name for one in records(root)] == ["n2", "n3", "n4"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "[" * 100_000, '{"domain": 1, "at": 2, "end": "x"}', "\xff"]
)
def test_what_is_no_record_is_none(root: Path, text: str) -> None:
    (root / ".ended").mkdir(parents=True)
    (root / ".ended" / "a.json").write_text(text, encoding="latin-1")
    assert read_record(root, "a") is None
    assert records(root) == []


def test_nothing_runs_where_nothing_ever_ran(tmp_path: Path) -> None:
    assert running(tmp_path / "none") == []
    assert records(tmp_path / "none") == []
