"""GNTTABOP_*: the guest's side of kvmxen/grants.pyx.

Source: xen/include/public/grant_table.h; semantics of xen/common/grant_table.c. The guest can
name two domains: itself, whose grants it may use, and dom0, which grants nothing.
"""

from __future__ import annotations

import errno
import struct
from array import array
from collections.abc import Callable

from kvmxen.abi.grant_table import (
    CACHE_CLEAN,
    CACHE_INVAL,
    COPY_DEST_GREF,
    COPY_SOURCE_GREF,
    GnttabOp,
    GrantStatus,
)
from kvmxen.abi.xen import DOMID_GUEST, DOMID_SELF
from kvmxen.cpu import Cpu
from kvmxen.errors import GuestFault, HypercallError
from kvmxen.grants import MAX_FRAMES, GrantError
from kvmxen.hypercall import grant_map
from kvmxen.hypercall.domid import OWN
from kvmxen.hypercall.grant_map import refusal, structures
from kvmxen.layout import PAGE_SHIFT, PAGE_SIZE

_SETUP_TABLE = struct.Struct("<H2xIh6xQ")
_GET_STATUS_FRAMES = struct.Struct("<IHhQ")
_COPY = struct.Struct("<QHH4xQHH4xHHh2x")
_COPY_STATUS = 36
_SWAP = struct.Struct("<II")
_SWAP_STATUS, _SWAP_SIZE = 8, 12
_CACHE_FLUSH = struct.Struct("<QHHI")


def grant_table_op(cpu: Cpu, command: int, argument: int, count: int) -> int:
    """Perform `command` on each of the `count` structures at `argument`."""
    command, count = command & 0xFFFFFFFF, count & 0xFFFFFFFF
    if count & 1 << 31:
        raise HypercallError(errno.EINVAL)
    handler = _LISTS.get(command)
    if handler:
        handler(cpu, argument, count)
        return 0
    if command not in _SINGLE:
        raise HypercallError(errno.ENOSYS)
    if count != 1 and command not in (GnttabOp.SET_VERSION, GnttabOp.GET_VERSION):
        raise HypercallError(errno.EINVAL)
    _SINGLE[command](cpu, argument)
    return 0


def _setup_table(cpu: Cpu, argument: int) -> None:
    domid, frames, _, pointer = _SETUP_TABLE.unpack(cpu.read(argument, _SETUP_TABLE.size))
    status = _table_status(domid)
    if status is GrantStatus.OKAY and frames > MAX_FRAMES:
        status = GrantStatus.GENERAL_ERROR
    if status is GrantStatus.OKAY:
        status = _give_frames(cpu, pointer, cpu.machine.grants.grow(frames))
    _write_status(cpu, argument + 8, status)


def _get_status_frames(cpu: Cpu, argument: int) -> None:
    frames, domid, _, pointer = _GET_STATUS_FRAMES.unpack(
        cpu.read(argument, _GET_STATUS_FRAMES.size)
    )
    status = _table_status(domid)
    if status is GrantStatus.OKAY and frames > cpu.machine.grants.nr_status_frames:
        status = GrantStatus.GENERAL_ERROR
    if status is GrantStatus.OKAY:
        status = _give_frames(cpu, pointer, cpu.machine.grants.status_frames(frames))
    _write_status(cpu, argument + 6, status)


def _give_frames(cpu: Cpu, pointer: int, frames: list[int]) -> GrantStatus:
    try:
        cpu.write(pointer, array("Q", frames).tobytes())
    except GuestFault:
        return GrantStatus.BAD_VIRT_ADDR
    return GrantStatus.OKAY


def _query_size(cpu: Cpu, argument: int) -> None:
    domid = cpu.read_u16(argument)
    frames = cpu.machine.grants.nr_frames
    cpu.write(argument + 4, struct.pack("<IIh", frames, MAX_FRAMES, _table_status(domid)))


def _set_version(cpu: Cpu, argument: int) -> None:
    version = cpu.read_u32(argument)
    try:
        cpu.machine.grants.set_version(version)
    finally:
        # On failure too, the guest reads back the version in use.
        cpu.write_u32(argument, cpu.machine.grants.version)


def _get_version(cpu: Cpu, argument: int) -> None:
    domid = cpu.read_u16(argument)
    if domid not in OWN:
        raise HypercallError(errno.EPERM if domid == 0 else errno.ESRCH)
    cpu.write_u32(argument + 4, cpu.machine.grants.version)


def _table_status(domid: int) -> GrantStatus:
    """The status of an operation on the table of `domid`, if its other arguments are right."""
    if domid in OWN:
        return GrantStatus.OKAY
    return GrantStatus.PERMISSION_DENIED if domid == 0 else GrantStatus.BAD_DOMAIN


def _write_status(cpu: Cpu, where: int, status: GrantStatus) -> None:
    cpu.write(where, status.to_bytes(2, "little", signed=True))


def _copy(cpu: Cpu, argument: int, count: int) -> None:
    for at in structures(cpu, argument, count, _COPY.size):
        _write_status(cpu, at + _COPY_STATUS, _copy_one(cpu, *_COPY.unpack(cpu.read(at, 40))))


def _copy_one(
    cpu: Cpu,
    source: int,
    source_domid: int,
    source_offset: int,
    dest: int,
    dest_domid: int,
    dest_offset: int,
    length: int,
    flags: int,
    _status: int,
) -> GrantStatus:
    if not length:
        return GrantStatus.OKAY
    grants = cpu.machine.grants
    pinned: list[tuple[int, bool]] = []
    places: list[tuple[int, int, int]] = []
    try:
        for frame, domid, by_reference, write in (
            (source, source_domid, flags & COPY_SOURCE_GREF, False),
            (dest, dest_domid, flags & COPY_DEST_GREF, True),
        ):
            if not by_reference and domid != DOMID_SELF:
                return GrantStatus.PERMISSION_DENIED
            if domid not in OWN:
                return refusal(domid, frame & 0xFFFFFFFF)
            if by_reference:
                reference = frame & 0xFFFFFFFF
                places.append(grants.pin(reference, DOMID_GUEST, write, mapping=False))
                pinned.append((reference, write))
            elif cpu.tables.owns(frame):
                places.append((frame << PAGE_SHIFT, 0, PAGE_SIZE))
            else:
                return GrantStatus.BAD_PAGE
        if source_offset + length > PAGE_SIZE or dest_offset + length > PAGE_SIZE:
            return GrantStatus.BAD_COPY_ARG
        for (_, start, room), offset in zip(places, (source_offset, dest_offset), strict=True):
            if not start <= offset <= offset + length <= start + room:
                return GrantStatus.GENERAL_ERROR
        memory = cpu.machine.memory
        data = memory.read(places[0][0] + source_offset, length)
        memory.write(places[1][0] + dest_offset, data)
    except GrantError as error:
        return error.status
    finally:
        for reference, write in pinned:
            grants.unpin(reference, write)
    return GrantStatus.OKAY


def _swap_grant_ref(cpu: Cpu, argument: int, count: int) -> None:
    for at in structures(cpu, argument, count, _SWAP_SIZE):
        references = _SWAP.unpack(cpu.read(at, _SWAP.size))
        _write_status(cpu, at + _SWAP_STATUS, cpu.machine.grants.swap(*references))


def _cache_flush(cpu: Cpu, argument: int, count: int) -> None:
    """Check the arguments only: caches are coherent."""
    for at in structures(cpu, argument, count, _CACHE_FLUSH.size):
        address, offset, length, operation = _CACHE_FLUSH.unpack(cpu.read(at, _CACHE_FLUSH.size))
        if (
            offset >= PAGE_SIZE
            or offset + length > PAGE_SIZE
            or operation & ~(CACHE_CLEAN | CACHE_INVAL)
        ):
            raise HypercallError(errno.EINVAL)
        if length and operation and not cpu.tables.owns(address >> PAGE_SHIFT):
            raise HypercallError(errno.EPERM)


def _transfer(_cpu: Cpu, _argument: int, _count: int) -> None:
    """Refuse, as a Xen started with gnttab=no-transfer does: there is no receiver."""
    raise HypercallError(errno.EOPNOTSUPP)


_SINGLE: dict[int, Callable[[Cpu, int], None]] = {
    GnttabOp.SETUP_TABLE: _setup_table,
    GnttabOp.QUERY_SIZE: _query_size,
    GnttabOp.SET_VERSION: _set_version,
    GnttabOp.GET_STATUS_FRAMES: _get_status_frames,
    GnttabOp.GET_VERSION: _get_version,
}
_LISTS: dict[int, Callable[[Cpu, int, int], None]] = {
    GnttabOp.MAP_GRANT_REF: grant_map.map_grant_ref,
    GnttabOp.UNMAP_GRANT_REF: grant_map.unmap_grant_ref,
    GnttabOp.UNMAP_AND_REPLACE: grant_map.unmap_and_replace,
    GnttabOp.COPY: _copy,
    GnttabOp.TRANSFER: _transfer,
    GnttabOp.SWAP_GRANT_REF: _swap_grant_ref,
    GnttabOp.CACHE_FLUSH: _cache_flush,
}
