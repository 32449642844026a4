"""The states of a device's two ends. Source: xen/include/public/io/xenbus.h."""

from __future__ import annotations

from enum import IntEnum

from kvmxen.xen.abi import io


class XenbusState(IntEnum):
    """enum xenbus_state"""

    UNKNOWN = io.XenbusStateUnknown
    INITIALISING = io.XenbusStateInitialising
    INIT_WAIT = io.XenbusStateInitWait
    INITIALISED = io.XenbusStateInitialised
    CONNECTED = io.XenbusStateConnected
    CLOSING = io.XenbusStateClosing
    CLOSED = io.XenbusStateClosed
    RECONFIGURING = io.XenbusStateReconfiguring
    RECONFIGURED = io.XenbusStateReconfigured
