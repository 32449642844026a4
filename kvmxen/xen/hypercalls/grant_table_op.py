"""GNTTABOP_*: the guest's side of kvmxen/xen/grants.pyx.

Source: xen/include/public/grant_table.h; semantics of xen/common/grant_table.c. The guest can
name two domains: itself, whose grants it may use, and dom0, which grants nothing.
"""

from __future__ import annotations

import errno
from array import array
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from kvmxen.errors import GuestFault, HypercallError
from kvmxen.kvm.layout import PAGE_SHIFT, PAGE_SIZE
from kvmxen.xen.abi.grant_table import (
    CACHE_CLEAN,
    CACHE_INVAL,
    COPY_DEST_GREF,
    COPY_SOURCE_GREF,
    GnttabCacheFlush,
    GnttabCopy,
    GnttabGetStatusFrames,
    GnttabGetVersion,
    GnttabOp,
    GnttabQuerySize,
    GnttabSetupTable,
    GnttabSwapGrantRef,
    GrantStatus,
)
from kvmxen.xen.abi.structure import Structure
from kvmxen.xen.abi.xen import DOMID_GUEST, DOMID_SELF
from kvmxen.xen.grants import MAX_FRAMES, GrantError
from kvmxen.xen.hypercalls.caller import Caller
from kvmxen.xen.hypercalls.domid import OWN

_DOM0_GRANTS = 512
_C = TypeVar("_C", bound=Caller)
_S = TypeVar("_S", bound=Structure)


def grant_table_op(
    mappings: Mapping[int, Callable[[_C, int, int], None]],
    cpu: _C,
    command: int,
    argument: int,
    count: int,
) -> int:
    """Perform `command` on each of the `count` structures at `argument`.

    `mappings` has the operations that map and unmap, which differ by the kind of guest.
    """
    command, count = command & 0xFFFFFFFF, count & 0xFFFFFFFF
    if count & 1 << 31:
        raise HypercallError(errno.EINVAL)
    handler = mappings.get(command) or _LISTS.get(command)
    if handler:
        handler(cpu, argument, count)
        return 0
    if command not in _SINGLE:
        raise HypercallError(errno.ENOSYS)
    if count != 1 and command not in (GnttabOp.SET_VERSION, GnttabOp.GET_VERSION):
        raise HypercallError(errno.EINVAL)
    _SINGLE[command](cpu, argument)
    return 0


def structures(cpu: Caller, argument: int, count: int, kind: type[_S]) -> Iterator[tuple[int, _S]]:
    """The address and a copy of each of the `count` structures at `argument`.

    A list may have any length, but ends when the machine stops.
    """
    layout, machine = kind.bits64, cpu.machine
    size, unpack = layout.size, layout.unpack
    for at in range(argument, argument + count * size, size):
        if machine.stopping:
            return
        yield at, unpack(cpu.read(at, size))


def refusal(domid: int, reference: int) -> GrantStatus:
    """Why a grant of domain `domid` cannot be used: dom0 has one frame of entries and grants
    nothing, and there is no other domain."""
    if domid != 0:
        return GrantStatus.BAD_DOMAIN
    return GrantStatus.GENERAL_ERROR if reference < _DOM0_GRANTS else GrantStatus.BAD_GNTREF


def _setup_table(cpu: Caller, argument: int) -> None:
    request = GnttabSetupTable.load(cpu, argument)
    status = _table_status(request.dom)
    if status is GrantStatus.OKAY and request.nr_frames > MAX_FRAMES:
        status = GrantStatus.GENERAL_ERROR
    if status is GrantStatus.OKAY:
        frames = cpu.machine.grants.grow(request.nr_frames)
        status = _give_frames(cpu, request.frame_list, frames)
    GnttabSetupTable.status.store(cpu, argument, status)


def _get_status_frames(cpu: Caller, argument: int) -> None:
    request = GnttabGetStatusFrames.load(cpu, argument)
    grants = cpu.machine.grants
    status = _table_status(request.dom)
    if status is GrantStatus.OKAY and request.nr_frames > grants.nr_status_frames:
        status = GrantStatus.GENERAL_ERROR
    if status is GrantStatus.OKAY:
        frames = grants.status_frames(request.nr_frames)
        status = _give_frames(cpu, request.frame_list, frames)
    GnttabGetStatusFrames.status.store(cpu, argument, status)


def _give_frames(cpu: Caller, pointer: int, frames: list[int]) -> GrantStatus:
    try:
        cpu.write(pointer, array("Q", frames).tobytes())
    except GuestFault:
        return GrantStatus.BAD_VIRT_ADDR
    return GrantStatus.OKAY


def _query_size(cpu: Caller, argument: int) -> None:
    request = GnttabQuerySize.load(cpu, argument)
    request.replace(
        nr_frames=cpu.machine.grants.nr_frames,
        max_nr_frames=MAX_FRAMES,
        status=_table_status(request.dom),
    ).store(cpu, argument)


def _set_version(cpu: Caller, argument: int) -> None:
    version = cpu.read_u32(argument)
    try:
        cpu.machine.grants.set_version(version)
    finally:
        # On failure too, the guest reads back the version in use.
        cpu.write_u32(argument, cpu.machine.grants.version)


def _get_version(cpu: Caller, argument: int) -> None:
    domid = GnttabGetVersion.dom.load(cpu, argument)
    if domid not in OWN:
        raise HypercallError(errno.EPERM if domid == 0 else errno.ESRCH)
    GnttabGetVersion.version.store(cpu, argument, cpu.machine.grants.version)


def _table_status(domid: int) -> GrantStatus:
    """The status of an operation on the table of `domid`, if its other arguments are right."""
    if domid in OWN:
        return GrantStatus.OKAY
    return GrantStatus.PERMISSION_DENIED if domid == 0 else GrantStatus.BAD_DOMAIN


def _copy(cpu: Caller, argument: int, count: int) -> None:
    for at, request in structures(cpu, argument, count, GnttabCopy):
        GnttabCopy.status.store(cpu, at, _copy_one(cpu, request))


def _copy_one(cpu: Caller, request: GnttabCopy) -> GrantStatus:
    # All at once: reading each field by its name costs more than the copy of a few bytes.
    u, domid, offset, to_u, to_domid, to_offset, length, flags, _ = request
    if not length:
        return GrantStatus.OKAY
    grants = cpu.machine.grants
    pinned: list[tuple[int, bool]] = []
    places: list[tuple[int, int, int]] = []
    try:
        for frame, owner, by_reference, write in (
            (u, domid, flags & COPY_SOURCE_GREF, False),
            (to_u, to_domid, flags & COPY_DEST_GREF, True),
        ):
            reference = frame & 0xFFFFFFFF
            if not by_reference and owner != DOMID_SELF:
                return GrantStatus.PERMISSION_DENIED
            if owner not in OWN:
                return refusal(owner, reference)
            if by_reference:
                places.append(grants.pin(reference, DOMID_GUEST, write, mapping=False))
                pinned.append((reference, write))
            elif cpu.machine.owns(frame):
                places.append((frame << PAGE_SHIFT, 0, PAGE_SIZE))
            else:
                return GrantStatus.BAD_PAGE
        if offset + length > PAGE_SIZE or to_offset + length > PAGE_SIZE:
            return GrantStatus.BAD_COPY_ARG
        for (_, start, room), wanted in zip(places, (offset, to_offset), strict=True):
            if not start <= wanted <= wanted + length <= start + room:
                return GrantStatus.GENERAL_ERROR
        memory = cpu.machine.memory
        data = memory.read(places[0][0] + offset, length)
        memory.write(places[1][0] + to_offset, data)
    except GrantError as error:
        return error.status
    finally:
        for reference, write in pinned:
            grants.unpin(reference, write)
    return GrantStatus.OKAY


def _swap_grant_ref(cpu: Caller, argument: int, count: int) -> None:
    for at, request in structures(cpu, argument, count, GnttabSwapGrantRef):
        status = cpu.machine.grants.swap(request.ref_a, request.ref_b)
        GnttabSwapGrantRef.status.store(cpu, at, status)


def _cache_flush(cpu: Caller, argument: int, count: int) -> None:
    """Check the arguments only: caches are coherent."""
    for _, request in structures(cpu, argument, count, GnttabCacheFlush):
        if (
            request.offset >= PAGE_SIZE
            or request.offset + request.length > PAGE_SIZE
            or request.op & ~(CACHE_CLEAN | CACHE_INVAL)
        ):
            raise HypercallError(errno.EINVAL)
        mfn = request.dev_bus_addr >> PAGE_SHIFT
        if request.length and request.op and not cpu.machine.owns(mfn):
            raise HypercallError(errno.EPERM)


def _transfer(_cpu: Caller, _argument: int, _count: int) -> None:
    """Refuse, as a Xen started with gnttab=no-transfer does: there is no receiver."""
    raise HypercallError(errno.EOPNOTSUPP)


_SINGLE: dict[int, Callable[[Caller, int], None]] = {
    GnttabOp.SETUP_TABLE: _setup_table,
    GnttabOp.QUERY_SIZE: _query_size,
    GnttabOp.SET_VERSION: _set_version,
    GnttabOp.GET_STATUS_FRAMES: _get_status_frames,
    GnttabOp.GET_VERSION: _get_version,
}
_LISTS: dict[int, Callable[[Caller, int, int], None]] = {
    GnttabOp.COPY: _copy,
    GnttabOp.TRANSFER: _transfer,
    GnttabOp.SWAP_GRANT_REF: _swap_grant_ref,
    GnttabOp.CACHE_FLUSH: _cache_flush,
}
