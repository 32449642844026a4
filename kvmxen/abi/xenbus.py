"""The states of a device's two ends. Source: xen/include/public/io/xenbus.h."""

from __future__ import annotations

from enum import IntEnum


class XenbusState(IntEnum):
    """enum xenbus_state"""

    UNKNOWN = 0
    INITIALISING = 1
    INIT_WAIT = 2
    INITIALISED = 3
    CONNECTED = 4
    CLOSING = 5
    CLOSED = 6
    RECONFIGURING = 7
    RECONFIGURED = 8
