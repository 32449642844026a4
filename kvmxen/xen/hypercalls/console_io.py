"""console_io: the emergency console that PV guests write to before they have their own."""

from __future__ import annotations

import errno

from kvmxen.errors import HypercallError
from kvmxen.xen.hypercalls.caller import Caller

_WRITE = 0
_READ = 1
_MAX_WRITE = 1 << 16
# Drop characters that could control a terminal, as Xen does for a domain.
_PRINTABLE = bytes(range(0x20, 0x7F)) + b"\n\t\r"
_UNPRINTABLE = bytes(set(range(256)) - set(_PRINTABLE))


def console_io(cpu: Caller, command: int, count: int, buffer: int) -> int:
    """CONSOLEIO_write; there is never anything to read."""
    command, count = command & 0xFFFFFFFF, count & 0xFFFFFFFF
    if command == _READ:
        return 0
    if command != _WRITE:
        raise HypercallError(errno.ENOSYS)
    if count > _MAX_WRITE:
        raise HypercallError(errno.E2BIG)
    cpu.machine.emergency_output(cpu.read(buffer, count).translate(None, _UNPRINTABLE))
    return 0
