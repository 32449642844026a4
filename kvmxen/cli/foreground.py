"""A domain in the foreground: a person at its console; its end becomes an exit status."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from kvmxen.backends.terminal import open_terminal
from kvmxen.cli.person import Person
from kvmxen.cli.result import reported
from kvmxen.cli.stats import Stats
from kvmxen.cli.status import CRASHED, INTERRUPTED, REBOOTED
from kvmxen.config import Config
from kvmxen.domain.domain import Domain
from kvmxen.domain.ending import Ending
from kvmxen.domain.events import Event
from kvmxen.errors import Interrupted
from kvmxen.pv.machine import End
from kvmxen.streams import say, tell

_STATUSES = {
    End.POWEROFF: 0,
    End.CRASH: CRASHED,
    End.REBOOT: REBOOTED,
    End.DESTROYED: INTERRUPTED,
}


def boot(
    config: Config,
    *,
    timeout: float | None = None,
    patience: float | None = None,
    stats: Stats | None = None,
    paused: bool = False,
    ready: Callable[[], None] = lambda: None,
    result: Path | None = None,
) -> int:
    """Boot what `config` describes, again after each reboot; return the exit status of its end.

    `timeout` is in seconds, from now on; see Person for `patience`. `ready()` is called when the
    guest has been started, or is `paused` before its first instruction. `result` is the file of
    --result. Call it in the main thread.
    Raises KvmxenError for what a person can fix.
    """
    with reported(config.name, result) as known:
        known.ending, known.status = _boot(config, timeout, Person(patience), stats, paused, ready)
        return known.status


def _boot(
    config: Config,
    timeout: float | None,
    person: Person,
    stats: Stats | None,
    paused: bool,
    ready: Callable[[], None],
) -> tuple[Ending | None, int]:
    try:
        with person.signals(timeout), ExitStack() as stack:
            with person.interruptible():
                terminal = None
                if config.console.kind == "stdio":
                    opened = open_terminal(config.console, person.interrupt)
                    terminal = stack.enter_context(opened)
                    person.leaving = terminal.restore
                report = stack.enter_context(stats or Stats())
            domain = stack.enter_context(
                Domain(config, terminal=terminal, step=person.interruptible)
            )
            reports = _Reports(domain, report)
            domain.listen(reports.told)
            person.watch(domain)
            domain.start(paused=paused)
            ready()
            ending = domain.wait()
    except Interrupted as interruption:
        say(str(interruption))
        return None, interruption.exit_status
    assert ending is not None
    reports.crash()
    if ending.end is not End.CRASH and person.status is not None:
        return ending, person.status
    return ending, _STATUSES[ending.end]


class _Reports:
    """Prints the figures and the crash reports of the runs of `domain`."""

    def __init__(self, domain: Domain, stats: Stats) -> None:
        self._domain = domain
        self._stats = stats
        self._crash: Ending | None = None

    def told(self, event: Event) -> None:
        """Report what ended by `event`, in the domain's thread."""
        if event in (Event.REBOOTED, Event.ENDED):
            self._stats.report(self._domain.stats())
        if event in (Event.REBOOTED, Event.PRESERVED):
            self.crash()
        if event is Event.PRESERVED:
            say("the guest has stopped and is preserved: interrupt or destroy it to end it")

    def crash(self) -> None:
        """Report the last crash, if it has not been reported."""
        ending = self._domain.ending
        if ending is not None and ending.end is End.CRASH and ending is not self._crash:
            self._crash = ending
            tell(ending.report)
