"""A domain in the foreground: a person at its console; its end becomes an exit status."""

from __future__ import annotations

from contextlib import ExitStack

from kvmxen.backends.terminal import open_terminal
from kvmxen.cli.person import Person
from kvmxen.cli.stats import Stats
from kvmxen.cli.status import CRASHED, REBOOTED
from kvmxen.config import Config
from kvmxen.domain.domain import Domain
from kvmxen.domain.state import Event
from kvmxen.errors import Interrupted
from kvmxen.pv.machine import End
from kvmxen.streams import say, tell

_STATUSES = {End.POWEROFF: 0, End.CRASH: CRASHED, End.REBOOT: REBOOTED}


def boot(config: Config, *, timeout: float | None = None, stats: Stats | None = None) -> int:
    """Boot what `config` describes, again after each reboot; return the exit status of its end.

    `timeout` is in seconds, from now on. Call it in the main thread. Raises KvmxenError for what a
    person can fix.
    """
    person = Person()
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
            domain.listen(lambda event: _report(domain, event, report))
            person.watch(domain)
            domain.start()
            ending = domain.wait()
    except Interrupted as interruption:
        say(str(interruption))
        return interruption.exit_status
    assert ending is not None
    if ending.end is End.CRASH:
        tell(ending.report)
    elif person.status is not None:
        return person.status
    return _STATUSES[ending.end]


def _report(domain: Domain, event: Event, report: Stats) -> None:
    if event in (Event.REBOOTED, Event.ENDED):
        report.report(domain.stats())
