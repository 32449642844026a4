"""grant_table_op: the table itself, copies, and mappings in the guest's own page tables."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

import construct
import pytest

from kvmxen.errors import HypercallError
from kvmxen.kvm.layout import PAGE_SHIFT
from kvmxen.pv.hypercalls import grant_map
from kvmxen.xen.abi.grant_table import (
    CACHE_CLEAN,
    COPY_DEST_GREF,
    COPY_SOURCE_GREF,
    MAP_CONTAINS_PTE,
    MAP_DEVICE,
    MAP_HOST,
    MAP_READONLY,
    PERMIT_ACCESS,
    READING,
    READONLY,
    WRITING,
    GnttabCacheFlush,
    GnttabCopy,
    GnttabGetStatusFrames,
    GnttabMapGrantRef,
    GnttabOp,
    GnttabSetupTable,
    GnttabSwapGrantRef,
    GnttabUnmapAndReplace,
    GnttabUnmapGrantRef,
    GrantEntryV1,
    GrantStatus,
)
from kvmxen.xen.abi.xen import DOMID_GUEST, DOMID_SELF, Hypercall
from tests.unit.forged import FREE_PFN, NR_PAGES, SCRATCH, Domain, va

CACHE_FLUSH = GnttabCacheFlush.bits64.construct
COPY = GnttabCopy.bits64.construct
ENTRY_V1 = GrantEntryV1.bits64.construct
GET_STATUS_FRAMES = GnttabGetStatusFrames.bits64.construct
MAP_GRANT_REF = GnttabMapGrantRef.bits64.construct
SETUP_TABLE = GnttabSetupTable.bits64.construct
SWAP_GRANT_REF = GnttabSwapGrantRef.bits64.construct
UNMAP_AND_REPLACE = GnttabUnmapAndReplace.bits64.construct
UNMAP_GRANT_REF = GnttabUnmapGrantRef.bits64.construct

OKAY, GENERAL_ERROR = GrantStatus.OKAY, GrantStatus.GENERAL_ERROR
BAD_DOMAIN, BAD_GNTREF = GrantStatus.BAD_DOMAIN, GrantStatus.BAD_GNTREF
BAD_HANDLE, BAD_VIRT_ADDR = GrantStatus.BAD_HANDLE, GrantStatus.BAD_VIRT_ADDR
BAD_DEV_ADDR, DENIED = GrantStatus.BAD_DEV_ADDR, GrantStatus.PERMISSION_DENIED
BAD_PAGE, BAD_COPY = GrantStatus.BAD_PAGE, GrantStatus.BAD_COPY_ARG
ENOSYS, EINVAL, EFAULT, EPERM = -errno.ENOSYS, -errno.EINVAL, -errno.EFAULT, -errno.EPERM
NOWHERE = 0x1000
LIST = SCRATCH + 1024
REF = 9
# The address where a grant is mapped, and another that has an L1 entry.
WINDOW, OTHER = va(FREE_PFN + 1), va(FREE_PFN + 2)


def raw(domain: Domain, command: int, body: bytes, count: int = 1) -> int | None:
    return domain.hypercall(Hypercall.grant_table_op, command, domain.put(body), count)


def call(
    domain: Domain, command: GnttabOp, layout: construct.Struct, **fields: Any
) -> Mapping[str, Any]:
    """Perform one operation; return its structure afterwards."""
    body = layout.build({"status": -99, **fields})
    assert raw(domain, command, body) == 0
    result: Mapping[str, Any] = layout.parse(domain.get(len(body)))
    return result


def grant(domain: Domain, ref: int = REF, flags: int = PERMIT_ACCESS, **fields: int) -> None:
    table = domain.machine.grants.grow(1)[0] << PAGE_SHIFT
    entry = {"flags": flags, "domid": DOMID_GUEST, "frame": domain.layout.mfn(FREE_PFN), **fields}
    domain.memory.write(table + ref * 8, ENTRY_V1.build(entry))


def flags(domain: Domain, ref: int = REF) -> int:
    table = domain.machine.grants.grow(1)[0] << PAGE_SHIFT
    return domain.memory.read_u32(table + ref * 8) & 0xFFFF


def map_grant(domain: Domain, **fields: int) -> Mapping[str, Any]:
    given = {
        "host_addr": WINDOW,
        "flags": MAP_HOST,
        "ref": REF,
        "dom": DOMID_GUEST,
        "handle": 77,
        "dev_bus_addr": 88,
        **fields,
    }
    return call(domain, GnttabOp.MAP_GRANT_REF, MAP_GRANT_REF, **given)


def unmap_grant(domain: Domain, handle: int, **fields: int) -> int:
    given = {"host_addr": 0, "dev_bus_addr": 0, "handle": handle, **fields}
    return int(call(domain, GnttabOp.UNMAP_GRANT_REF, UNMAP_GRANT_REF, **given)["status"])


# The table.


def test_the_tables_size_and_frames(domain: Domain) -> None:
    assert raw(domain, GnttabOp.QUERY_SIZE, DOMID_SELF.to_bytes(2, "little")) == 0
    assert domain.get(10, 4) == bytes([1, 0, 0, 0, 64, 0, 0, 0, 0, 0])
    result = call(
        domain, GnttabOp.SETUP_TABLE, SETUP_TABLE, dom=DOMID_SELF, nr_frames=2, frame_list=LIST
    )
    assert result["status"] == OKAY
    first = domain.layout.xenheap_mfn + 1
    assert domain.get(16, 1024) == construct.Int64ul[2].build([first, first + 1])
    assert domain.machine.grants.nr_frames == 2


@pytest.mark.parametrize(
    ("domid", "frames", "where", "status"),
    [
        (DOMID_SELF, 65, LIST, GENERAL_ERROR),
        (5, 1, LIST, BAD_DOMAIN),
        (0, 1, LIST, DENIED),
        (DOMID_SELF, 1, NOWHERE, BAD_VIRT_ADDR),
    ],
)
def test_a_table_that_is_refused(
    domain: Domain, domid: int, frames: int, where: int, status: int
) -> None:
    for command, layout in (
        (GnttabOp.SETUP_TABLE, SETUP_TABLE),
        (GnttabOp.GET_STATUS_FRAMES, GET_STATUS_FRAMES),
    ):
        result = call(domain, command, layout, dom=domid, nr_frames=frames, frame_list=where)
        assert result["status"] == status
        assert domain.get(8, 1024) == bytes(8)
        assert raw(domain, GnttabOp.SET_VERSION, b"\2\0\0\0") == 0


def test_versions(domain: Domain) -> None:
    for version, answer in ((2, 0), (0, EINVAL), (3, EINVAL)):
        assert raw(domain, GnttabOp.SET_VERSION, version.to_bytes(4, "little")) == answer
        assert domain.get(4) == b"\2\0\0\0"
    assert raw(domain, GnttabOp.GET_VERSION, DOMID_SELF.to_bytes(8, "little")) == 0
    assert domain.get(4, 4) == b"\2\0\0\0"
    assert raw(domain, GnttabOp.GET_VERSION, bytes(8)) == EPERM
    assert raw(domain, GnttabOp.GET_VERSION, b"\5".ljust(8, b"\0")) == -errno.ESRCH
    result = call(
        domain,
        GnttabOp.GET_STATUS_FRAMES,
        GET_STATUS_FRAMES,
        dom=DOMID_SELF,
        nr_frames=1,
        frame_list=LIST,
    )
    assert result["status"] == OKAY
    assert domain.get(8, 1024) == domain.machine.grants.status_frames(1)[0].to_bytes(8, "little")


@pytest.mark.parametrize("count", [0, 2, 0x80000000, 0xFFFFFFFF])
def test_one_table_at_a_time(domain: Domain, count: int) -> None:
    body = DOMID_SELF.to_bytes(2, "little")
    assert raw(domain, GnttabOp.QUERY_SIZE, body, count) == EINVAL


@pytest.mark.parametrize(
    ("command", "answer"),
    [(GnttabOp.DUMP_TABLE, ENOSYS), (13, ENOSYS), (GnttabOp.TRANSFER, -errno.EOPNOTSUPP)],
)
def test_what_is_not_offered(domain: Domain, command: int, answer: int) -> None:
    assert raw(domain, command, bytes(64)) == answer
    assert domain.get(64) == bytes(64)


@pytest.mark.parametrize("command", [op for op in GnttabOp if op not in (3, 4)])
def test_a_structure_that_is_not_there(domain: Domain, command: GnttabOp) -> None:
    assert domain.hypercall(Hypercall.grant_table_op, command, NOWHERE, 1) == EFAULT


@pytest.mark.parametrize("command", [0, 1, 5, 7, 11, 12])
def test_a_list_that_goes_on_where_nothing_is(domain: Domain, command: int) -> None:
    last = va(NR_PAGES) - 40
    assert domain.hypercall(Hypercall.grant_table_op, command, last, 0x7FFFFFFF) == EFAULT


def test_swap(domain: Domain) -> None:
    grant(domain, 9, READONLY)
    result = call(domain, GnttabOp.SWAP_GRANT_REF, SWAP_GRANT_REF, ref_a=9, ref_b=10)
    assert (result["status"], flags(domain, 9), flags(domain, 10)) == (OKAY, 0, READONLY)
    result = call(domain, GnttabOp.SWAP_GRANT_REF, SWAP_GRANT_REF, ref_a=9, ref_b=512)
    assert result["status"] == BAD_GNTREF


@pytest.mark.parametrize(
    ("pfn", "offset", "length", "operation", "answer"),
    [
        (FREE_PFN, 0, 4096, CACHE_CLEAN, 0),
        (FREE_PFN, 1, 4096, CACHE_CLEAN, EINVAL),
        (FREE_PFN, 4096, 0, CACHE_CLEAN, EINVAL),
        (FREE_PFN, 0, 1, 4, EINVAL),
        (None, 0, 1, CACHE_CLEAN, EPERM),
    ],
)
def test_cache_flush(
    domain: Domain, pfn: int | None, offset: int, length: int, operation: int, answer: int
) -> None:
    address = 0 if pfn is None else domain.gpa(pfn)
    body = CACHE_FLUSH.build(
        {"dev_bus_addr": address, "offset": offset, "length": length, "op": operation}
    )
    assert raw(domain, GnttabOp.CACHE_FLUSH, body) == answer


# Copies.


def copy(domain: Domain, **fields: Any) -> int:
    pointer = {"u": domain.layout.mfn(FREE_PFN + 1), "domid": DOMID_SELF, "offset": 0}
    given = {
        "source": {"u": REF, "domid": DOMID_SELF, "offset": 0},
        "dest": pointer,
        "len": 8,
        "flags": COPY_SOURCE_GREF,
        **fields,
    }
    return int(call(domain, GnttabOp.COPY, COPY, **given)["status"])


def test_copy(domain: Domain) -> None:
    grant(domain)
    domain.memory.write(domain.gpa(FREE_PFN) + 10, b"granted!")
    source = {"u": REF, "domid": DOMID_GUEST, "offset": 10}
    dest = {"u": domain.layout.mfn(FREE_PFN + 1), "domid": DOMID_SELF, "offset": 4088}
    assert copy(domain, source=source, dest=dest) == OKAY
    assert domain.memory.read(domain.gpa(FREE_PFN + 1) + 4088, 8) == b"granted!"
    # The other way, over the grant.
    domain.memory.write(domain.gpa(FREE_PFN + 1) + 4088, b"returned")
    assert copy(domain, source=dest, dest=source, flags=COPY_DEST_GREF) == OKAY
    assert domain.memory.read(domain.gpa(FREE_PFN) + 10, 8) == b"returned"
    assert flags(domain) == PERMIT_ACCESS


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"len": 0, "flags": 0, "source": (1, 5, 9)}, OKAY),
        ({"len": 4097}, BAD_COPY),
        ({"source": (REF, DOMID_SELF, 4089)}, BAD_COPY),
        ({"source": (512, DOMID_SELF, 0)}, BAD_GNTREF),
        ({"source": (REF + 1, DOMID_SELF, 0)}, GENERAL_ERROR),
        ({"source": (REF, 5, 0)}, BAD_DOMAIN),
        ({"source": (REF, 0, 0)}, GENERAL_ERROR),
        ({"source": (512, 0, 0)}, BAD_GNTREF),
        ({"dest": (REF, 5, 0)}, DENIED),
        ({"dest": (0, DOMID_SELF, 0)}, BAD_PAGE),
        ({"dest": (1 << 52, DOMID_SELF, 0)}, BAD_PAGE),
    ],
)
def test_a_copy_that_is_refused(domain: Domain, change: dict[str, Any], status: int) -> None:
    grant(domain)
    given = {
        name: dict(zip(("u", "domid", "offset"), value, strict=True))
        if isinstance(value, tuple)
        else value
        for name, value in change.items()
    }
    assert copy(domain, **given) == status
    assert flags(domain) == PERMIT_ACCESS


def test_each_copy_of_a_list_has_its_status(domain: Domain) -> None:
    grant(domain)
    good = {
        "source": {"u": REF, "domid": DOMID_SELF, "offset": 0},
        "dest": {"u": domain.layout.mfn(FREE_PFN), "domid": DOMID_SELF, "offset": 8},
        "len": 8,
        "flags": COPY_SOURCE_GREF,
        "status": -99,
    }
    bodies = [good, {**good, "len": 5000}, good]
    assert raw(domain, GnttabOp.COPY, b"".join(map(COPY.build, bodies)), 3) == 0
    statuses = [COPY.parse(domain.get(40, at))["status"] for at in (0, 40, 80)]
    assert statuses == [OKAY, BAD_COPY, OKAY]


# Mappings.


def test_a_grant_to_oneself_is_mapped_and_unmapped(domain: Domain) -> None:
    grant(domain)
    entry = domain.entry(1, WINDOW)
    before = domain.memory.read_u64(entry)
    result = map_grant(domain)
    assert (result["status"], result["dev_bus_addr"]) == (OKAY, domain.gpa(FREE_PFN))
    assert domain.tables.translate(domain.cr3, WINDOW, True) == domain.gpa(FREE_PFN)
    assert domain.memory.read_u64(entry) != before
    assert flags(domain) == PERMIT_ACCESS | READING | WRITING
    assert domain.machine.grants.pinned() == {REF: (0, 1)}
    assert unmap_grant(domain, result["handle"], host_addr=WINDOW) == OKAY
    assert domain.memory.read_u64(entry) == 0
    assert flags(domain) == PERMIT_ACCESS
    assert len(domain.machine.maptrack) == 0
    assert unmap_grant(domain, result["handle"], host_addr=WINDOW) == BAD_HANDLE


@pytest.mark.parametrize("stored", [True, False])
def test_a_mapping_that_is_not_there_yet_cannot_be_unmapped(
    domain: Domain, monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    """Another vCPU tries every handle while the entry is stored."""
    grant(domain)
    store = grant_map._store
    statuses: list[int] = []

    def meanwhile(*arguments: Any) -> None:
        kinds = {"host_addr": WINDOW, "dev_bus_addr": domain.gpa(FREE_PFN)}
        statuses.extend(unmap_grant(domain, handle, **kinds) for handle in range(3))
        if not stored:
            raise HypercallError(errno.EINVAL)
        store(*arguments)

    monkeypatch.setattr(grant_map, "_store", meanwhile)
    result = map_grant(domain, flags=MAP_HOST | MAP_DEVICE)
    assert statuses == [BAD_HANDLE] * 3
    assert result["status"] == (OKAY if stored else GENERAL_ERROR)
    assert domain.machine.grants.pinned() == ({REF: (0, 2)} if stored else {})
    assert len(domain.machine.maptrack) == stored


def test_a_handle_that_became_anothers_is_left_alone(domain: Domain) -> None:
    """A vCPU found the handle before another unmapped it and mapped something else."""
    maptrack = domain.machine.maptrack
    grant(domain)
    grant(domain, REF + 1)
    first = maptrack.pin(REF, MAP_HOST)
    handle = maptrack.reserve()
    assert handle == 0
    maptrack.publish(handle, first)
    maptrack.unpin(first, maptrack.release(handle, first, MAP_HOST))
    second = maptrack.pin(REF + 1, MAP_HOST)
    assert maptrack.reserve() == handle
    maptrack.publish(handle, second)
    assert maptrack.release(handle, first, MAP_HOST) == 0
    assert maptrack.find(handle) is second
    assert domain.machine.grants.pinned() == {REF + 1: (0, 1)}


def test_a_mapping_by_its_entry_and_for_reading(domain: Domain) -> None:
    grant(domain, flags=PERMIT_ACCESS | READONLY)
    entry = domain.entry(1, WINDOW)
    kinds = MAP_HOST | MAP_READONLY | MAP_CONTAINS_PTE | 5 << 16
    result = map_grant(domain, host_addr=entry, flags=kinds)
    assert result["status"] == OKAY
    value = domain.memory.read_u64(entry)
    assert value & ~4 == 1 << 63 | domain.gpa(FREE_PFN) | 5 << 9 | 0x61
    assert flags(domain) == PERMIT_ACCESS | READONLY | READING
    assert unmap_grant(domain, result["handle"], host_addr=entry + 8) == GENERAL_ERROR
    assert unmap_grant(domain, result["handle"], host_addr=entry) == OKAY
    assert domain.memory.read_u64(entry) == 0


def test_each_kind_of_mapping_is_undone_for_itself(domain: Domain) -> None:
    """Each only once, and neither kind twice (XSA-224)."""
    grant(domain)
    result = map_grant(domain, flags=MAP_HOST | MAP_DEVICE)
    handle, bus = result["handle"], result["dev_bus_addr"]
    assert domain.machine.grants.pinned() == {REF: (0, 2)}
    assert unmap_grant(domain, handle, host_addr=WINDOW) == OKAY
    assert unmap_grant(domain, handle, host_addr=WINDOW) == OKAY
    assert domain.machine.grants.pinned() == {REF: (0, 1)}
    assert unmap_grant(domain, handle) == OKAY
    assert unmap_grant(domain, handle, dev_bus_addr=bus + 4096) == BAD_DEV_ADDR
    assert unmap_grant(domain, handle, dev_bus_addr=bus) == OKAY
    assert domain.machine.grants.pinned() == {}
    assert unmap_grant(domain, handle, dev_bus_addr=bus) == BAD_HANDLE


def test_unmap_and_replace(domain: Domain) -> None:
    grant(domain)
    handle = map_grant(domain)["handle"]
    moved = domain.memory.read_u64(domain.entry(1, OTHER))
    result = call(
        domain,
        GnttabOp.UNMAP_AND_REPLACE,
        UNMAP_AND_REPLACE,
        host_addr=WINDOW,
        new_addr=OTHER,
        handle=handle,
    )
    assert result["status"] == OKAY
    assert domain.memory.read_u64(domain.entry(1, OTHER)) == 0
    assert domain.memory.read_u64(domain.entry(1, WINDOW)) == moved
    assert flags(domain) == PERMIT_ACCESS


def test_another_mapping_in_the_same_place(domain: Domain) -> None:
    """The first cannot be undone through the second's entry (XSA-234)."""
    grant(domain)
    grant(domain, REF + 1, frame=domain.layout.mfn(FREE_PFN + 3))
    first = map_grant(domain)["handle"]
    second = map_grant(domain, ref=REF + 1)["handle"]
    assert first != second
    assert unmap_grant(domain, first, host_addr=WINDOW) == GENERAL_ERROR
    assert domain.machine.grants.pinned() == {REF: (0, 1), REF + 1: (0, 1)}
    assert unmap_grant(domain, second, host_addr=WINDOW) == OKAY
    assert domain.machine.grants.pinned() == {REF: (0, 1)}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"flags": 0}, BAD_GNTREF),
        ({"flags": MAP_READONLY}, BAD_GNTREF),
        ({"dom": 0}, GENERAL_ERROR),
        ({"dom": 0, "ref": 511}, GENERAL_ERROR),
        ({"dom": 0, "ref": 512}, BAD_GNTREF),
        ({"dom": 5}, BAD_DOMAIN),
        ({"dom": DOMID_SELF}, BAD_DOMAIN),
        ({"ref": 512}, BAD_GNTREF),
        ({"ref": REF + 1}, GENERAL_ERROR),
        ({"host_addr": NOWHERE}, GENERAL_ERROR),
        ({"host_addr": 1 << 63}, GENERAL_ERROR),
        ({"host_addr": 0xFFFF800000000000}, GENERAL_ERROR),
        ({"host_addr": 3, "flags": MAP_HOST | MAP_CONTAINS_PTE}, GENERAL_ERROR),
        ({"host_addr": 0, "flags": MAP_HOST | MAP_CONTAINS_PTE}, GENERAL_ERROR),
        ({"host_addr": 0, "flags": MAP_HOST | MAP_DEVICE}, GENERAL_ERROR),
    ],
)
def test_a_mapping_that_is_refused(domain: Domain, change: dict[str, int], status: int) -> None:
    grant(domain)
    result = map_grant(domain, **change)
    assert (result["status"], result["handle"]) == (status, 77)
    assert flags(domain) == PERMIT_ACCESS
    assert len(domain.machine.maptrack) == 0
    assert domain.machine.grants.pinned() == {}


def test_a_read_only_grant_is_not_mapped_to_write(domain: Domain) -> None:
    grant(domain, flags=PERMIT_ACCESS | READONLY)
    assert map_grant(domain)["status"] == GENERAL_ERROR
    assert map_grant(domain, flags=MAP_HOST | MAP_READONLY)["status"] == OKAY


def test_a_mapping_keeps_the_version(domain: Domain) -> None:
    grant(domain)
    handle = map_grant(domain)["handle"]
    assert raw(domain, GnttabOp.SET_VERSION, b"\2\0\0\0") == -errno.EBUSY
    assert unmap_grant(domain, handle, host_addr=WINDOW) == OKAY
    assert raw(domain, GnttabOp.SET_VERSION, b"\2\0\0\0") == 0


@pytest.mark.parametrize(
    ("layout", "size"),
    [
        (MAP_GRANT_REF, 32),
        (UNMAP_GRANT_REF, 24),
        (UNMAP_AND_REPLACE, 24),
        (SETUP_TABLE, 24),
        (GET_STATUS_FRAMES, 16),
        (COPY, 40),
        (SWAP_GRANT_REF, 12),
        (CACHE_FLUSH, 16),
    ],
)
def test_sizes_are_the_headers(layout: construct.Struct, size: int) -> None:
    assert layout.sizeof() == size
