"""XENMEM_*: the domain's memory and its balloon.

Source: xen/include/public/memory.h. A domain keeps its initial frames: a balloon gives a frame
back to the host, and later gets the same or another of the domain's frames.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from enum import IntEnum
from functools import partial
from typing import TypeVar

from kvmxen.errors import GuestFault, HypercallError
from kvmxen.kvm.layout import PAGE_SHIFT
from kvmxen.xen.abi import xen
from kvmxen.xen.abi.memory import E820Entry, XenMemoryMap, XenMemoryReservation
from kvmxen.xen.hypercalls.caller import Caller
from kvmxen.xen.hypercalls.domid import OWN, check_own

_E820_RAM = 1
_MAX_EXTENTS = 1 << 20
MAX_ORDER = 9
_C = TypeVar("_C", bound=Caller)


class Memory(IntEnum):
    """XENMEM_*"""

    INCREASE_RESERVATION = xen.XENMEM_increase_reservation
    DECREASE_RESERVATION = xen.XENMEM_decrease_reservation
    MAXIMUM_RAM_PAGE = xen.XENMEM_maximum_ram_page
    CURRENT_RESERVATION = xen.XENMEM_current_reservation
    MAXIMUM_RESERVATION = xen.XENMEM_maximum_reservation
    MACHPHYS_MFN_LIST = xen.XENMEM_machphys_mfn_list
    POPULATE_PHYSMAP = xen.XENMEM_populate_physmap
    MEMORY_MAP = xen.XENMEM_memory_map
    EXCHANGE = xen.XENMEM_exchange
    MACHPHYS_MAPPING = xen.XENMEM_machphys_mapping


def memory_op(
    frames: Mapping[int, Callable[[_C, int], int]], cpu: _C, command: int, argument: int
) -> int:
    """One XENMEM operation.

    `frames` has the operations of guests that know their machine frames.
    """
    machine = cpu.machine
    command &= 0x3F
    if command in frames:
        return frames[command](cpu, argument)
    match command:
        case Memory.MAXIMUM_RAM_PAGE:
            return machine.layout.max_mfn - 1
        case Memory.CURRENT_RESERVATION:
            check_own(cpu.read_u16(argument))
            return machine.size >> PAGE_SHIFT
        case Memory.MAXIMUM_RESERVATION:
            check_own(cpu.read_u16(argument))
            return machine.layout.max_pages
        case Memory.MEMORY_MAP:
            return _memory_map(cpu, argument)
        case Memory.DECREASE_RESERVATION:
            return _extents(cpu, argument, cpu.release_extents)
        case Memory.INCREASE_RESERVATION:
            return _extents(cpu, argument, partial(cpu.reserve_extents, populate=False))
        case Memory.POPULATE_PHYSMAP:
            return _extents(cpu, argument, partial(cpu.reserve_extents, populate=True))
    raise HypercallError(errno.ENOSYS)


def _memory_map(cpu: Caller, argument: int) -> int:
    request = XenMemoryMap.load(cpu, argument)
    if not request.nr_entries:
        raise HypercallError(errno.ENOBUFS)
    size = cpu.machine.layout.max_pages << PAGE_SHIFT
    E820Entry(size=size, type=_E820_RAM).store(cpu, request.buffer)
    XenMemoryMap.nr_entries.store(cpu, argument, 1)
    return 0


def _extents(cpu: Caller, argument: int, change: Callable[[int, int, int], int]) -> int:
    """Call `change` on the extents of a reservation, with their list, number and order.

    Returns how many it changed before an error, which is all that Xen reports.
    """
    try:
        request = XenMemoryReservation.load(cpu, argument)
    except GuestFault:
        return 0
    count, order = request.nr_extents, request.extent_order
    if request.domid not in OWN or count > _MAX_EXTENTS or order > MAX_ORDER:
        return 0
    return change(request.extent_start, count, order)
