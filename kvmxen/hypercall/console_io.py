"""console_io: the emergency console that PV guests write to before they have their own."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from kvmxen.errors import HypercallError

if TYPE_CHECKING:
    from kvmxen.cpu import Cpu

_WRITE = 0
_READ = 1
_MAX_WRITE = 4096


def console_io(cpu: Cpu, command: int, count: int, buffer: int) -> int:
    """CONSOLEIO_write; there is never anything to read."""
    command, count = command & 0xFFFFFFFF, count & 0xFFFFFFFF
    if command == _READ:
        return 0
    if command != _WRITE:
        raise HypercallError(errno.ENOSYS)
    while count:
        size = min(count, _MAX_WRITE)
        cpu.machine.emergency_output(cpu.read(buffer, size))
        buffer, count = buffer + size, count - size
    return 0
