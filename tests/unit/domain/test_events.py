"""A domain's events in other processes."""

from __future__ import annotations

import socket

from kvmxen.domain.ending import Ending
from kvmxen.domain.events import Event, EventStream, Feed, Happening
from kvmxen.pv.machine import End


def subscribe(feed: Feed) -> EventStream:
    ours, theirs = socket.socketpair()
    feed.attach(theirs)
    return EventStream(ours)


def test_each_reader_gets_each_event_once() -> None:
    feed = Feed()
    one = subscribe(feed)
    feed.tell(Event.STARTED, None)
    two = subscribe(feed)
    feed.tell(Event.ENDED, Ending(End.CRASH, 1.0, "why", "report"))
    feed.close()
    told = [(h.event, h.end, h.reason, h.past) for h in one]
    assert told == [(Event.STARTED, "", "", False), (Event.ENDED, "crash", "why", False)]
    told = [(h.event, h.end, h.reason, h.past) for h in two]
    assert told == [(Event.STARTED, "", "", True), (Event.ENDED, "crash", "why", False)]
    one.close()
    two.close()


def test_one_that_has_gone_is_forgotten() -> None:
    feed = Feed()
    subscribe(feed).close()
    other = subscribe(feed)
    for _ in range(3):
        feed.tell(Event.PAUSED, None)
    feed.close()
    assert len(list(other)) == 3
    other.close()


def test_one_that_does_not_read_is_disconnected_and_sees_that_it_missed_some() -> None:
    feed = Feed()
    stream = subscribe(feed)
    for _ in range(10_000):
        feed.tell(Event.PAUSED, None)
    feed.tell(Event.ENDED, None)
    told = list(stream)
    assert 0 < len(told) < 10_000
    assert all(isinstance(h, Happening) and h.event is Event.PAUSED for h in told)
    stream.close()


def test_after_the_end_a_stream_is_empty() -> None:
    feed = Feed()
    feed.close()
    stream = subscribe(feed)
    assert list(stream) == []
    stream.close()
