"""A domain's states and events."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """A domain's state; it is paused until it is started."""

    RUNNING = "running"
    PAUSED = "paused"
    PRESERVED = "preserved"
    ENDED = "ended"


class Event(Enum):
    """What happens to a domain, for its listeners."""

    STARTED = "started"
    PAUSED = "paused"
    UNPAUSED = "unpaused"
    REBOOTED = "rebooted"
    PRESERVED = "preserved"
    ENDED = "ended"
