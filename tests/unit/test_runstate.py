"""Runstates: times that add up to all the time there was."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from kvmxen.runstate import Runstate, State


def test_golden() -> None:
    runstate = Runstate(100)
    runstate.enter(State.RUNNING, 150)
    runstate.enter(State.BLOCKED, 180)
    assert runstate.pack(200) == struct.pack("<i4xQ4Q", 2, 180, 30, 0, 20, 50)


@given(st.lists(st.tuples(st.sampled_from(State), st.integers(0, 1 << 40))))
def test_all_time_is_accounted_for(steps: list[tuple[State, int]]) -> None:
    now = 1000
    runstate = Runstate(now)
    for state, took in steps:
        now += took
        runstate.enter(state, now)
    state, since, *times = struct.unpack("<i4xQ4Q", runstate.pack(now + 5))
    assert state == (steps[-1][0] if steps else State.OFFLINE)
    assert since == now
    assert sum(times) == now + 5 - 1000


def test_a_clock_that_steps_back_takes_nothing_away() -> None:
    runstate = Runstate(100)
    runstate.enter(State.RUNNING, 50)
    assert runstate.pack(40) == struct.pack("<i4xQ4Q", 0, 50, 0, 0, 0, 0)
