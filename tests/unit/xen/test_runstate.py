"""Runstates: their times add up to the elapsed time."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from kvmxen.xen.runstate import Runstate, State


@dataclass
class Sleeper:
    slept: int = 0
    asleep_since: int = 0


def test_golden() -> None:
    runstate = Runstate(100, Sleeper())
    runstate.enter(State.RUNNING, 150)
    runstate.enter(State.BLOCKED, 180)
    assert runstate.pack(200) == struct.pack("<i4xQ4Q", 2, 180, 30, 0, 20, 50)


def test_a_sleep_in_the_dispatcher() -> None:
    sleeper = Sleeper()
    runstate = Runstate(100, sleeper)
    runstate.enter(State.RUNNING, 150)
    sleeper.asleep_since = 180
    assert runstate.pack(200) == struct.pack("<i4xQ4Q", 2, 180, 30, 0, 20, 50)
    sleeper.slept, sleeper.asleep_since = 25, 0
    assert runstate.pack(210) == struct.pack("<i4xQ4Q", 0, 150, 35, 0, 25, 50)
    runstate.enter(State.BLOCKED, 220)
    runstate.enter(State.RUNNING, 230)
    sleeper.slept += 3
    assert runstate.pack(240) == struct.pack("<i4xQ4Q", 0, 230, 52, 0, 38, 50)


@given(
    st.lists(st.tuples(st.sampled_from(State), st.integers(0, 1 << 40))),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, (1 << 64) - 1),
)
def test_all_time_is_accounted_for(
    steps: list[tuple[State, int]], slept: int, asleep_since: int
) -> None:
    now = 1000
    sleeper = Sleeper()
    runstate = Runstate(now, sleeper)
    for state, took in steps:
        now += took
        runstate.enter(state, now)
    # A guest's kernel in ring 3 may write anything there.
    sleeper.slept, sleeper.asleep_since = slept, asleep_since
    state, since, *times = struct.unpack("<i4xQ4Q", runstate.pack(now + 5))
    last = steps[-1][0] if steps else State.OFFLINE
    asleep = last is State.RUNNING and asleep_since
    assert (state, since) == ((State.BLOCKED, asleep_since) if asleep else (last, now))
    assert sum(times) == now + 5 - 1000


def test_a_clock_that_steps_back_takes_nothing_away() -> None:
    runstate = Runstate(100, Sleeper())
    runstate.enter(State.RUNNING, 50)
    assert runstate.pack(40) == struct.pack("<i4xQ4Q", 0, 50, 0, 0, 0, 0)
