"""The events of all domains of a user, none lost and none doubled."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmxen import Config, ConsoleSpec, Domain
from kvmxen.domain.events import Event
from kvmxen.domain.record import Identity, Record, Told, write_record
from kvmxen.domain.rundir import RunDirectory, runtime_root
from kvmxen.domain.watch import Watch
from tests.e2e.domain import PATIENCE, ROOT, SLOWNESS

WAIT = PATIENCE * SLOWNESS
ENDED = "ended"


class Seen:
    """What a Watch yields, by the domain's id, read in a thread of its own."""

    def __init__(self) -> None:
        self.watch = Watch(runtime_root())
        self.events: defaultdict[int, list[str]] = defaultdict(list)
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        for identity, happening in self.watch:
            with self._changed:
                word = f"{happening.event.value} {happening.end}".strip()
                self.events[identity.id].append(word)
                self._changed.notify_all()

    def until_ended(self, count: int) -> list[list[str]]:
        """The events of the first `count` domains to end."""

        def ended() -> list[list[str]]:
            return [told for told in self.events.values() if told[-1].startswith(ENDED)]

        with self._changed:
            assert self._changed.wait_for(lambda: len(ended()) >= count, WAIT), self.events
            return ended()

    def close(self) -> None:
        self.watch.stop()
        self._thread.join(WAIT)
        self.watch.close()


@pytest.fixture
def seen(tmp_path: Path, kvm: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    monkeypatch.setenv("KVMXEN_RUNTIME_DIR", str(tmp_path / "run"))
    seen = Seen()
    yield seen
    seen.close()


def demo(name: str) -> Config:
    return Config(name=name, console=ConsoleSpec("none"), memory=64 << 20)


def test_many_domains_come_and_go(seen: Seen) -> None:
    def live(number: int) -> None:
        for _ in range(8):
            with Domain(demo(f"n{number}")) as domain:
                domain.start()
                domain.wait(WAIT)

    threads = [threading.Thread(target=live, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    told = seen.until_ended(24)
    for thread in threads:
        thread.join()
    assert told == [["started", "ended poweroff"]] * 24


def test_one_that_runs_already_has_told_its_past(seen: Seen) -> None:
    with Domain(demo("first")) as domain:
        domain.start(paused=True)
        late = Seen()
        try:
            domain.unpause()
            domain.wait(WAIT)
            assert late.until_ended(1) == [["unpaused", "ended poweroff"]]
        finally:
            late.close()
    (told,) = seen.until_ended(1)
    assert told == ["started", "paused", "unpaused", "ended poweroff"]


def test_a_killed_process_ends_its_domain(seen: Seen) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "kvmxen", "boot", "--on-poweroff", "preserve"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr
        assert "is preserved" in process.stderr.readline()
        os.kill(process.pid, signal.SIGKILL)
    assert seen.until_ended(1) == [["started", "preserved poweroff", "ended killed"]]


def test_one_that_was_too_quick_is_found_in_its_record(seen: Seen) -> None:
    with RunDirectory("quick") as folder:
        events = (Told("started", 3.0), Told("paused", 4.0))
        write_record(folder.root, Record(folder.identity, 5.0, "crash", "why", events=events))
    assert seen.until_ended(1) == [["started", "paused", "ended crash"]]
    # One that never started has nothing to tell.
    with RunDirectory("never") as folder:
        identity: Identity = folder.identity
    with Domain(demo("other")) as domain:
        domain.start()
        domain.wait(WAIT)
    seen.until_ended(2)
    assert identity.id not in seen.events
    assert Event.ENDED.value == ENDED


def test_the_command(seen: Seen, pv_grub: Path) -> None:
    command = [sys.executable, "-m", "kvmxen", "events", "named"]
    config = Config(name="named", kernel=pv_grub, console=ConsoleSpec("none"))
    with (
        Domain(config) as domain,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process,
    ):
        assert process.stdout
        domain.start()
        # It begins at some time; from then on it misses nothing.
        while not select.select([process.stdout], [], [], 0.1)[0]:
            domain.pause()
            domain.unpause()
        domain.destroy()
        lines = process.stdout.read().splitlines()
        assert process.wait(WAIT) == 0
    *told, last = [line.partition(" ")[2] for line in lines]
    assert last == "named ended destroyed"
    turns = ["named paused", "named unpaused"] * len(told)
    assert told == turns[turns.index(told[0]) :][: len(told)]
