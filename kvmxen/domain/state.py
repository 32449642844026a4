"""A domain's states."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """A domain's state; it is paused until it is started."""

    RUNNING = "running"
    PAUSED = "paused"
    PRESERVED = "preserved"
    ENDED = "ended"
