"""A vCPU's timers: which deadline is programmed, and what its expiry means."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from kvmxen.xen.timer import DEFAULT_PERIOD, Timer


@dataclass
class Shared:
    singleshot: int = 0
    others: int = 0
    armed: int = 0


class Clock:
    def __init__(self) -> None:
        self.now = 1000
        self.armed: list[int] = []
        self.listening = True
        self.timer = Timer(Shared(), lambda: self.now, self.armed.append, lambda: self.listening)


@pytest.fixture
def clock() -> Clock:
    """A clock without a tick."""
    clock = Clock()
    clock.timer.set_periodic(0)
    return clock


def test_a_vcpu_starts_with_a_tick_once_somebody_listens() -> None:
    clock = Clock()
    clock.listening = False
    assert clock.timer.dirty
    clock.timer.program()
    assert clock.armed == []
    clock.listening = True
    clock.timer.program()
    assert clock.armed == [1000 + DEFAULT_PERIOD]


def test_nothing_is_programmed_for_nothing(clock: Clock) -> None:
    clock.timer.program()
    assert clock.armed == []
    assert not clock.timer.dirty


def test_the_earliest_counts(clock: Clock) -> None:
    for deadline in (5000, 3000, 4000):
        clock.timer.set_singleshot(deadline)
        clock.timer.set_wake(deadline + 500)
        clock.timer.program()
    assert clock.armed == [5000, 3000, 4000]
    clock.timer.set_singleshot(0)
    clock.timer.program()
    assert clock.armed[-1] == 4500


def test_the_same_deadline_is_programmed_once(clock: Clock) -> None:
    clock.timer.set_singleshot(5000)
    clock.timer.program()
    clock.timer.set_singleshot(5000)
    clock.timer.program()
    assert clock.armed == [5000]


def test_a_stopped_timer_is_disarmed(clock: Clock) -> None:
    clock.timer.set_singleshot(5000)
    clock.timer.program()
    clock.timer.set_singleshot(0)
    clock.timer.program()
    assert clock.armed == [5000, 0]


def test_a_singleshot_fires_once(clock: Clock) -> None:
    clock.timer.set_singleshot(2000)
    clock.timer.program()
    clock.now = 2000
    assert clock.timer.expire()
    assert clock.timer.dirty
    clock.timer.program()
    assert not clock.timer.expire()
    assert clock.armed == [2000]


def test_an_early_interrupt_leaves_the_deadline(clock: Clock) -> None:
    clock.timer.set_singleshot(2000)
    clock.timer.program()
    clock.now = 1999
    assert not clock.timer.expire()
    clock.timer.program()
    assert clock.armed == [2000, 2000]


def test_a_tick_goes_on(clock: Clock) -> None:
    clock.timer.set_periodic(100)
    clock.timer.program()
    clock.now = 1150
    assert clock.timer.expire()
    clock.timer.program()
    assert clock.armed == [1100, 1250]


def test_a_polls_end_is_no_timer_event(clock: Clock) -> None:
    clock.timer.set_wake(2000)
    clock.timer.program()
    clock.now = 2000
    assert not clock.timer.expire()
    clock.timer.program()
    assert clock.armed == [2000]


@pytest.mark.parametrize("deadline", [1 << 60, 1 << 63, (1 << 64) - 1])
def test_what_never_comes_is_not_programmed(clock: Clock, deadline: int) -> None:
    clock.timer.set_singleshot(deadline)
    clock.timer.set_wake(deadline)
    clock.timer.program()
    assert clock.armed == []


def test_a_deadline_of_the_past_is_programmed_all_the_same(clock: Clock) -> None:
    clock.timer.set_singleshot(1)
    clock.timer.program()
    assert clock.armed == [1]
    assert clock.timer.expire()
