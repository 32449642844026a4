"""The facts that a store's server and its clients share."""

from __future__ import annotations

from kvmxen.xen.abi.xs_wire import Operation
from kvmxen.xenstore.wire import Message

# The socket's name in a domain's folder.
SOCKET = "xenstore.sock"
# The greeting of a server that can take no more clients; it sends nothing else.
BUSY = Message(Operation.ERROR, 0, 0, b"EBUSY\0")
