"""libvirt's events, made of those of the domains."""

from __future__ import annotations

from enum import IntEnum

from kvmxen.domain.events import Event, Happening


class EventId(IntEnum):
    """virDomainEventID: what a client can ask to be told of, as far as it ever happens."""

    LIFECYCLE = 0
    REBOOT = 1


class Lifecycle(IntEnum):
    """virDomainEventType"""

    DEFINED = 0
    UNDEFINED = 1
    STARTED = 2
    SUSPENDED = 3
    RESUMED = 4
    STOPPED = 5
    CRASHED = 8


# virDomainEventStoppedDetailType, by the end of a Record or a Happening.
_STOPPED = {"poweroff": 0, "reboot": 0, "destroyed": 1, "crash": 2, "failed": 5, "killed": 5}


def lifecycle(happening: Happening) -> tuple[Lifecycle, int] | None:
    """The type and the detail of a lifecycle event; None if libvirt has none for it."""
    match happening.event:
        case Event.STARTED:
            return Lifecycle.STARTED, 0
        case Event.PAUSED:
            return Lifecycle.SUSPENDED, 0
        case Event.UNPAUSED:
            return Lifecycle.RESUMED, 0
        case Event.PRESERVED:
            return Lifecycle.CRASHED, 0
        case Event.ENDED:
            return Lifecycle.STOPPED, _STOPPED.get(happening.end, 5)
    return None
