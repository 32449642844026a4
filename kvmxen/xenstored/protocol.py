"""What a store's server and its clients share."""

from __future__ import annotations

from kvmxen.abi.xs_wire import Operation
from kvmxen.xenstore.wire import Message

# In a domain's folder.
SOCKET = "xenstore.sock"
# What a server says that can serve no more clients; all it says, before it was asked anything.
BUSY = Message(Operation.ERROR, 0, 0, b"EBUSY\0")
