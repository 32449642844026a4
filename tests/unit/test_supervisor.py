"""What a person wants of a domain: while it is built, while it runs, and in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from kvmxen.errors import Interrupted
from kvmxen.loop import Loop
from kvmxen.machine import End
from kvmxen.supervisor import EXIT_INTERRUPTED, EXIT_TIMEOUT, Supervisor

ENDS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def timer(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Stands in for the process's one timer, which is the test's own: what it was set to."""
    seconds: list[float] = []
    monkeypatch.setattr(signal, "setitimer", lambda _which, value: seconds.append(value))
    return seconds


@pytest.mark.parametrize("number", ENDS)
def test_a_signal_ends_a_blocking_call(loop: Loop, number: signal.Signals) -> None:
    supervisor = Supervisor(loop)
    reader, writer = os.pipe()
    # Whether it comes before the call or in it does not matter.
    other = threading.Thread(target=os.kill, args=(os.getpid(), number))

    def step() -> None:
        other.start()
        os.read(reader, 1)

    with supervisor.signals(None):
        with pytest.raises(Interrupted) as raised, supervisor.interruptible():
            step()
        other.join()
    assert raised.value.exit_status == EXIT_INTERRUPTED
    os.close(reader)
    os.close(writer)


def test_the_timeout_counts_while_it_is_built(loop: Loop, timer: list[float]) -> None:
    supervisor = Supervisor(loop)
    # pytest's own.
    timer.clear()
    with supervisor.signals(2.5):
        assert timer == [2.5]
        with pytest.raises(Interrupted) as raised, supervisor.interruptible():
            signal.raise_signal(signal.SIGALRM)
    assert timer == [2.5, 0]
    assert raised.value.exit_status == EXIT_TIMEOUT


@pytest.mark.parametrize("timeout", [1e9, 1e300])
def test_a_timeout_of_any_length(loop: Loop, timeout: float) -> None:
    before = signal.getitimer(signal.ITIMER_REAL)
    try:
        with Supervisor(loop).signals(timeout):
            assert signal.getitimer(signal.ITIMER_REAL)[0] > 1e8
    finally:
        signal.setitimer(signal.ITIMER_REAL, *before)


def test_what_is_let_go_of_is_let_go_of_whole(loop: Loop) -> None:
    supervisor = Supervisor(loop)
    done: list[str] = []

    def step() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            done.append("inside")

    # A second signal on the way out, and one outside of such a context.
    with supervisor.signals(None):
        with pytest.raises(Interrupted), supervisor.interruptible():
            step()
        signal.raise_signal(signal.SIGTERM)
        done.append("outside")
    assert done == ["inside", "outside"]


def test_a_wish_between_two_steps_waits_for_the_next(loop: Loop) -> None:
    supervisor = Supervisor(loop)
    with supervisor.signals(None):
        with supervisor.interruptible():
            pass
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted), supervisor.interruptible():
            pytest.fail("this step is not begun")


def test_a_wish_just_before_the_guest_runs(loop: Loop) -> None:
    supervisor = Supervisor(loop)
    with supervisor.signals(None):
        signal.raise_signal(signal.SIGHUP)
        with pytest.raises(Interrupted):
            supervisor.attach(lambda: pytest.fail("there is no guest to ask"))


@pytest.mark.parametrize("number", ENDS)
def test_a_guest_is_asked_and_then_destroyed(
    loop: Loop, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    supervisor = Supervisor(loop)
    asked: list[int] = []

    def ask() -> None:
        asked.append(1)
        signal.raise_signal(number)

    with supervisor.signals(None):
        supervisor.attach(ask)
        signal.raise_signal(number)
        assert asked == []
        assert supervisor.wait() is End.DESTROYED
    assert (asked, supervisor.status) == ([1], EXIT_INTERRUPTED)
    assert capsys.readouterr().err.startswith("kvmxen: asking the guest to shut down")


def test_the_timeout_destroys_a_guest(loop: Loop, timer: list[float]) -> None:
    supervisor = Supervisor(loop)
    with supervisor.signals(9.0):
        supervisor.attach(lambda: None)
        signal.raise_signal(signal.SIGALRM)
        assert supervisor.wait() is End.DESTROYED
    assert supervisor.status == EXIT_TIMEOUT


def test_a_wish_while_a_guest_reboots_ends_the_domain(loop: Loop) -> None:
    supervisor = Supervisor(loop)
    with supervisor.signals(None):
        supervisor.attach(lambda: None)
        supervisor.ended(End.REBOOT)
        assert supervisor.wait() is End.REBOOT
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted), supervisor.interruptible():
            pass


def test_an_end_before_the_guest_runs_is_not_forgotten(loop: Loop) -> None:
    supervisor = Supervisor(loop)
    supervisor.ended(End.CRASH)
    supervisor.attach(lambda: None)
    assert supervisor.wait() is End.CRASH


def test_the_handlers_are_as_they_were(loop: Loop) -> None:
    before = [signal.getsignal(number) for number in ENDS]
    with Supervisor(loop).signals(None):
        assert all(signal.getsignal(number) not in before for number in ENDS)
    assert [signal.getsignal(number) for number in ENDS] == before


def test_nohup_is_respected(loop: Loop) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Supervisor(loop).signals(None):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_second_signal_leaves_a_device_that_does_not_close() -> None:
    program = """
import threading
from kvmxen.loop import Loop
from kvmxen.machine import End
from kvmxen.supervisor import Supervisor

supervisor = Supervisor(Loop())
supervisor.leaving = lambda: print("restored", flush=True)
with supervisor.signals(None):
    supervisor.attach(lambda: None)
    supervisor.ended(End.POWEROFF)
    supervisor.wait()
    print("over", flush=True)
    threading.Event().wait()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "over\n"
        process.terminate()
        assert "once more to leave them as they are" in process.stderr.readline()
        process.terminate()
        assert process.wait() == EXIT_INTERRUPTED
        assert process.stdout.read() == "restored\n"
