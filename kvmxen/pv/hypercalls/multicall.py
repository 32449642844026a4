"""multicall: several hypercalls in one."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from contextlib import suppress

from kvmxen.errors import GuestFault, HypercallError
from kvmxen.pv.cpu import Cpu
from kvmxen.xen.abi.xen import Hypercall, MulticallEntry

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
    size = MulticallEntry.bits64.size
    for at in range(calls, calls + count * size, size):
        number, _, *arguments = MulticallEntry.load(cpu, at)
        result: int | None = -errno.ENOSYS
        if number != Hypercall.multicall:
            result = hypercall(cpu, number, arguments)
        if result is None:
            with suppress(GuestFault):
                MulticallEntry.result.store(cpu, at, cpu.vcpu.rax)
            return None
        MulticallEntry.result.store(cpu, at, result & (1 << 64) - 1)
        if cpu.machine.stopping:
            break
    return 0
