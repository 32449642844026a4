"""XENMEM_*: what memory the domain has, and its balloon.

Source: xen/include/public/memory.h. A domain keeps the frames it started with: a balloon gives
a frame back to the host and later gets the same or another of its own.
"""

from __future__ import annotations

import errno
import struct
from array import array
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING

from kvmxen.abi.xen import DOMID_GUEST, DOMID_SELF
from kvmxen.errors import HypercallError
from kvmxen.layout import PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from kvmxen.cpu import Cpu

_RESERVATION = struct.Struct("<QQIIH6x")
_EXCHANGE = struct.Struct("<QQIIH6xQQIIH6xQ")
_MEMORY_MAP = struct.Struct("<I4xQ")
_E820_ENTRY = struct.Struct("<QQI")
_MACHPHYS_MAPPING = struct.Struct("<QQQ")
_MFN_LIST = struct.Struct("<I4xQI4x")
_E820_RAM = 1
_MAX_EXTENTS = 1 << 20
_MAX_ORDER = 9
# Frames in one exchange: a superpage's.
_MAX_EXCHANGE = 1 << _MAX_ORDER
_OWN = (DOMID_SELF, DOMID_GUEST)
_MASK64 = (1 << 64) - 1


class Memory(IntEnum):
    """XENMEM_*"""

    INCREASE_RESERVATION = 0
    DECREASE_RESERVATION = 1
    MAXIMUM_RAM_PAGE = 2
    CURRENT_RESERVATION = 3
    MAXIMUM_RESERVATION = 4
    MACHPHYS_MFN_LIST = 5
    POPULATE_PHYSMAP = 6
    MEMORY_MAP = 9
    EXCHANGE = 11
    MACHPHYS_MAPPING = 12


def memory_op(cpu: Cpu, command: int, argument: int) -> int:
    """One XENMEM operation."""
    machine = cpu.machine
    match command & 0x3F:
        case Memory.MAXIMUM_RAM_PAGE:
            return machine.layout.max_mfn - 1
        case Memory.CURRENT_RESERVATION:
            _own_domain(cpu.read(argument, 2))
            return machine.layout.nr_pages - len(machine.ballooned)
        case Memory.MAXIMUM_RESERVATION:
            _own_domain(cpu.read(argument, 2))
            return machine.layout.nr_pages
        case Memory.MACHPHYS_MAPPING:
            cpu.write(
                argument,
                _MACHPHYS_MAPPING.pack(
                    machine.m2p_va,
                    machine.m2p_va + machine.layout.m2p_bytes,
                    machine.layout.max_mfn - 1,
                ),
            )
            return 0
        case Memory.MACHPHYS_MFN_LIST:
            return _machphys_mfn_list(cpu, argument)
        case Memory.MEMORY_MAP:
            return _memory_map(cpu, argument)
        case Memory.DECREASE_RESERVATION:
            return _each_extent(cpu, argument, _release)
        case Memory.INCREASE_RESERVATION:
            return _each_extent(cpu, argument, _increase)
        case Memory.POPULATE_PHYSMAP:
            return _each_extent(cpu, argument, _populate)
        case Memory.EXCHANGE:
            return _exchange(cpu, argument)
    raise HypercallError(errno.ENOSYS)


def _own_domain(domid: bytes) -> None:
    if int.from_bytes(domid, "little") not in _OWN:
        raise HypercallError(errno.EPERM)


def _memory_map(cpu: Cpu, argument: int) -> int:
    entries, buffer = _MEMORY_MAP.unpack(cpu.read(argument, _MEMORY_MAP.size))
    if not entries:
        raise HypercallError(errno.ENOBUFS)
    size = cpu.machine.layout.nr_pages << PAGE_SHIFT
    cpu.write(buffer, _E820_ENTRY.pack(0, size, _E820_RAM))
    cpu.write(argument, (1).to_bytes(4, "little"))
    return 0


def _machphys_mfn_list(cpu: Cpu, argument: int) -> int:
    count, pointer, _ = _MFN_LIST.unpack(cpu.read(argument, _MFN_LIST.size))
    layout = cpu.machine.layout
    extents = range(layout.m2p_gpa, layout.m2p_gpa + layout.m2p_bytes, 2 << 20)[:count]
    cpu.write(pointer, array("Q", (gpa >> PAGE_SHIFT for gpa in extents)).tobytes())
    cpu.write(argument + 16, len(extents).to_bytes(4, "little"))
    return 0


def _each_extent(cpu: Cpu, argument: int, change: Callable[[Cpu, int, int], object]) -> int:
    """`change` each extent of a reservation, given where it stands and its frames.

    Returns how many were changed until something was wrong, which is all that Xen tells.
    """
    done = 0
    try:
        pointer, count, order, _, domid = _RESERVATION.unpack(cpu.read(argument, _RESERVATION.size))
        if domid not in _OWN or count > _MAX_EXTENTS or order > _MAX_ORDER:
            return 0
        while done < count and not cpu.machine.stopping:
            change(cpu, pointer + done * 8, 1 << order)
            done += 1
    except HypercallError:
        pass
    return done


def _release(cpu: Cpu, where: int, frames: int) -> None:
    mfn = int.from_bytes(cpu.read(where, 8), "little")
    _check_given_up(cpu, range(mfn, mfn + frames))
    for frame in range(mfn, mfn + frames):
        cpu.machine.balloon_out(frame)


def _increase(cpu: Cpu, where: int, frames: int) -> int:
    mfn = cpu.machine.balloon_in(frames)
    if mfn is None:
        raise HypercallError(errno.ENOMEM)
    cpu.write(where, mfn.to_bytes(8, "little"))
    return mfn


def _populate(cpu: Cpu, where: int, frames: int) -> None:
    pfn = int.from_bytes(cpu.read(where, 8), "little")
    _set_m2p(cpu, _increase(cpu, where, frames), pfn, frames)


def _set_m2p(cpu: Cpu, mfn: int, pfn: int, frames: int) -> None:
    for i in range(frames):
        cpu.tables.set_m2p(mfn + i, pfn + i & _MASK64)


def _check_given_up(cpu: Cpu, frames: Sequence[int]) -> None:
    """EINVAL where one of `frames` is not the guest's to give away."""
    for frame in frames:
        if (
            not cpu.tables.owns(frame)
            or frame in cpu.machine.ballooned
            or cpu.tables.is_table(cpu.vcpu, frame)
        ):
            raise HypercallError(errno.EINVAL)


def _exchange(cpu: Cpu, argument: int) -> int:
    """Swap frames for ones that lie together, where there are such in the balloon."""
    fields = _EXCHANGE.unpack(cpu.read(argument, _EXCHANGE.size))
    pointer, count, order, _, domid, out_pointer, out_count, out_order, _, out_domid, done = fields
    if domid not in _OWN or out_domid not in _OWN:
        raise HypercallError(errno.EPERM)
    if (
        done
        or order > _MAX_ORDER
        or out_order > _MAX_ORDER
        or count << order != out_count << out_order
        or count << order > _MAX_EXCHANGE
    ):
        raise HypercallError(errno.EINVAL)
    frames = [
        first + i for first in array("Q", cpu.read(pointer, count * 8)) for i in range(1 << order)
    ]
    _check_given_up(cpu, frames)
    if len(set(frames)) != len(frames):
        raise HypercallError(errno.EINVAL)
    size = 1 << out_order
    for index in range(out_count):
        chunk = frames[index * size : (index + 1) * size]
        if chunk != list(range(chunk[0], chunk[0] + size)):
            raise HypercallError(errno.ENOMEM)
    for index in range(out_count):
        pfn = int.from_bytes(cpu.read(out_pointer + index * 8, 8), "little")
        first = frames[index * size]
        for i in range(size):
            cpu.machine.memory.zero(first + i << PAGE_SHIFT, PAGE_SIZE)
        _set_m2p(cpu, first, pfn, size)
        cpu.write(out_pointer + index * 8, first.to_bytes(8, "little"))
    cpu.write(argument + 64, count.to_bytes(8, "little"))
    return 0
