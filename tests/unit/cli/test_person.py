"""A person's requests to a domain: while it is built, while it runs, and in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from kvmxen.cli.person import Person
from kvmxen.cli.status import INTERRUPTED, TIMED_OUT
from kvmxen.errors import Interrupted

ENDS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


class Guest:
    """Stands in for a domain: records a person's requests. `asks()` runs when it is asked to
    end."""

    def __init__(self, asks: Callable[[], bool] = lambda: True) -> None:
        self._asks = asks
        self.done: list[str] = []

    def shutdown(self) -> bool:
        self.done.append("asked")
        return self._asks()

    def destroy(self) -> None:
        self.done.append("destroyed")


@pytest.fixture
def timer(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Stands in for the process's only timer; records its settings."""
    seconds: list[float] = []
    monkeypatch.setattr(signal, "setitimer", lambda _which, value: seconds.append(value))
    return seconds


@pytest.mark.parametrize("number", ENDS)
def test_a_signal_ends_a_blocking_call(number: signal.Signals) -> None:
    person = Person()
    reader, writer = os.pipe()
    # It does not matter whether it arrives before the call or in it.
    other = threading.Thread(target=os.kill, args=(os.getpid(), number))

    def step() -> None:
        other.start()
        os.read(reader, 1)

    with person.signals(None):
        with pytest.raises(Interrupted) as raised, person.interruptible():
            step()
        other.join()
    assert raised.value.exit_status == INTERRUPTED
    os.close(reader)
    os.close(writer)


def test_the_timeout_counts_while_it_is_built(timer: list[float]) -> None:
    person = Person()
    # pytest's own setting.
    timer.clear()
    with person.signals(2.5):
        assert timer == [2.5]
        with pytest.raises(Interrupted) as raised, person.interruptible():
            signal.raise_signal(signal.SIGALRM)
    assert timer == [2.5, 0]
    assert raised.value.exit_status == TIMED_OUT


@pytest.mark.parametrize("timeout", [1e9, 1e300])
def test_a_timeout_of_any_length(timeout: float) -> None:
    before = signal.getitimer(signal.ITIMER_REAL)
    try:
        with Person().signals(timeout):
            assert signal.getitimer(signal.ITIMER_REAL)[0] > 1e8
    finally:
        signal.setitimer(signal.ITIMER_REAL, *before)


def test_what_is_let_go_of_is_let_go_of_whole() -> None:
    person = Person()
    done: list[str] = []

    def step() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            done.append("inside")

    # A second signal on the way out, and one outside such a context.
    with person.signals(None):
        with pytest.raises(Interrupted), person.interruptible():
            step()
        signal.raise_signal(signal.SIGTERM)
        done.append("outside")
    assert done == ["inside", "outside"]


def test_a_wish_between_two_steps_waits_for_the_next() -> None:
    person = Person()
    with person.signals(None):
        with person.interruptible():
            pass
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted), person.interruptible():
            pytest.fail("this step is not begun")


def test_a_wish_just_before_the_guest_runs() -> None:
    person, guest = Person(), Guest()
    with person.signals(None):
        signal.raise_signal(signal.SIGHUP)
        with pytest.raises(Interrupted):
            person.watch(guest)
    assert guest.done == []


@pytest.mark.parametrize("number", ENDS)
def test_a_guest_is_asked_and_then_destroyed(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    person, guest = Person(), Guest()
    with person.signals(None):
        person.watch(guest)
        assert guest.done == []
        signal.raise_signal(number)
        assert (guest.done, person.status) == (["asked"], None)
        signal.raise_signal(number)
    assert (guest.done, person.status) == (["asked", "destroyed"], INTERRUPTED)
    assert capsys.readouterr().err.startswith("kvmxen: asking the guest to shut down")


def test_the_second_wish_may_come_amid_the_first() -> None:
    def ask() -> bool:
        signal.raise_signal(signal.SIGTERM)
        return True

    person, guest = Person(), Guest(ask)
    with person.signals(None):
        person.watch(guest)
        signal.raise_signal(signal.SIGINT)
    assert (guest.done, person.status) == (["asked", "destroyed"], INTERRUPTED)


def test_the_timeout_destroys_a_guest(timer: list[float]) -> None:
    person, guest = Person(), Guest()
    with person.signals(9.0):
        person.watch(guest)
        signal.raise_signal(signal.SIGALRM)
    assert (guest.done, person.status) == (["destroyed"], TIMED_OUT)


def test_a_wish_while_a_guest_reboots_ends_the_domain() -> None:
    """There is no guest to ask then."""
    person, guest = Person(), Guest(lambda: False)
    with person.signals(None):
        person.watch(guest)
        signal.raise_signal(signal.SIGTERM)
    assert (guest.done, person.status) == (["asked", "destroyed"], INTERRUPTED)


def test_the_handlers_are_as_they_were() -> None:
    before = [signal.getsignal(number) for number in ENDS]
    with Person().signals(None):
        assert all(signal.getsignal(number) not in before for number in ENDS)
    assert [signal.getsignal(number) for number in ENDS] == before


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Person().signals(None):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_third_signal_leaves_a_device_that_does_not_close() -> None:
    program = """
import threading
from kvmxen.cli.person import Person

class Guest:
    def shutdown(self):
        return True

    def destroy(self):
        print("destroyed", flush=True)

person = Person()
person.leaving = lambda: print("restored", flush=True)
with person.signals(None):
    person.watch(Guest())
    print("running", flush=True)
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
        assert process.stdout.readline() == "running\n"
        process.terminate()
        assert "asking the guest to shut down" in process.stderr.readline()
        process.terminate()
        assert process.stdout.readline() == "destroyed\n"
        process.terminate()
        assert process.wait() == INTERRUPTED
        assert process.stdout.read() == "restored\n"
        assert "exiting without waiting for the guest's devices" in process.stderr.read()
