"""A domain's watchdogs: their answers, and when they fire. The test controls the time."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator

import pytest

from kvmxen.errors import HypercallError
from kvmxen.xen.watchdog import Watchdogs

PATIENCE = 60
FAR = 1 << 31


class Time:
    """The clock, and the watchdogs that it fired."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.paused = False
        self.fired: list[int] = []
        self.fires = threading.Event()
        self.dogs = Watchdogs(self._fire, lambda: self.paused, lambda: self.now)

    def _fire(self, number: int) -> None:
        self.fired.append(number)
        self.fires.set()

    def pass_seconds(self, count: int, step: float = 1.0) -> None:
        """The guest makes a call each second, as it may run."""
        for _ in range(count):
            self.now += step
            with pytest.raises(HypercallError):
                self.dogs.set(99, 0)

    def end(self) -> list[int]:
        """Stop the clock; return the watchdogs that fired, and those that were due."""
        self.dogs.stop()
        self.dogs.join()
        return self.fired


@pytest.fixture
def time() -> Iterator[Time]:
    time = Time()
    yield time
    time.end()


def refusal(time: Time, number: int, seconds: int) -> int:
    with pytest.raises(HypercallError) as raised:
        time.dogs.set(number, seconds)
    return raised.value.errno


def test_two_are_taken_and_given_back(time: Time) -> None:
    assert refusal(time, 1, 10) == errno.EINVAL
    assert time.dogs.set(0, FAR) == 1
    assert time.dogs.set(0, FAR) == 2
    assert refusal(time, 0, FAR) == errno.ENOSPC
    assert refusal(time, 3, FAR) == errno.EINVAL
    assert refusal(time, 0xFFFFFFFF, 0) == errno.EINVAL
    assert time.dogs.set(1, 0) == 0
    assert refusal(time, 1, 0) == errno.EINVAL
    assert time.dogs.set(0, FAR) == 1
    assert time.end() == []


def test_it_fires_when_its_time_is_over(time: Time) -> None:
    time.dogs.set(0, FAR)
    assert time.dogs.set(0, 5) == 2
    time.pass_seconds(6)
    assert time.fires.wait(PATIENCE)
    assert time.end() == [2]


def test_it_fires_at_once_if_that_is_asked_for(time: Time) -> None:
    assert time.dogs.set(0, 0) == 1
    assert time.fires.wait(PATIENCE)


def test_it_does_not_fire_if_it_is_set_again_or_stopped(time: Time) -> None:
    time.dogs.set(0, 5)
    time.dogs.set(0, 5)
    for _ in range(10):
        time.pass_seconds(4)
        time.dogs.set(1, 5)
        time.dogs.set(2, 5)
    time.dogs.set(1, 0)
    time.dogs.set(2, FAR)
    time.pass_seconds(20)
    assert time.end() == []


def test_what_is_set_while_others_wait_begins_then(time: Time) -> None:
    time.dogs.set(0, FAR)
    time.now += 0.9
    time.dogs.set(0, 1)
    time.pass_seconds(1, 0.9)
    assert time.end() == []


def test_time_in_which_the_guest_could_not_run_does_not_count(time: Time) -> None:
    time.dogs.set(0, 5)
    # The process was stopped.
    time.pass_seconds(1, 3600)
    time.paused = True
    time.pass_seconds(10)
    time.paused = False
    time.pass_seconds(3)
    assert time.end() == []


def test_none_fires_once_the_domain_has_ended(time: Time) -> None:
    time.dogs.set(0, 1)
    time.end()
    time.dogs.set(1, 0)
    time.dogs.set(0, 0)
    assert time.end() == []
