"""multicall: several hypercalls in one."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress

from kvmxen.abi.xen import Hypercall
from kvmxen.cpu import Cpu
from kvmxen.errors import GuestFault, HypercallError

# struct multicall_entry (xen/include/public/xen.h): op, result, six arguments.
_ENTRY = struct.Struct("<8Q")
_MAX_CALLS = 1 << 16


def multicall(
    hypercall: Callable[[Cpu, int, Sequence[int]], int | None], cpu: Cpu, calls: int, count: int
) -> int | None:
    """Run `count` calls by `hypercall`, and store each result in its entry.

    An iret ends the list, because the guest continues with the registers that it loads.
    """
    count &= 0xFFFFFFFF
    if count > _MAX_CALLS:
        raise HypercallError(errno.EINVAL)
    for entry in range(calls, calls + count * _ENTRY.size, _ENTRY.size):
        number, _, *arguments = _ENTRY.unpack(cpu.read(entry, _ENTRY.size))
        result: int | None = -errno.ENOSYS
        if number != Hypercall.multicall:
            result = hypercall(cpu, number, arguments)
        if result is None:
            with suppress(GuestFault):
                cpu.write_u64(entry + 8, cpu.vcpu.rax)
            return None
        cpu.write_u64(entry + 8, result & (1 << 64) - 1)
        if cpu.machine.stopping:
            break
    return 0
