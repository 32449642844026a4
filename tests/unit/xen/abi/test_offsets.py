"""The offsets of directly accessed fields are those of the layouts."""

from __future__ import annotations

from collections.abc import Sequence

import construct
import pytest

from kvmxen.pv.hypercalls.table import TABLE
from kvmxen.xen.abi import io_console, ring, xen
from kvmxen.xen.abi.layouts.io_console import XENCONS_INTERFACE
from kvmxen.xen.abi.shared_info import SharedInfo, VcpuInfo, VcpuTimeInfo
from kvmxen.xen.abi.start_info import StartInfo

SHARED_INFO, VCPU_INFO = SharedInfo.bits64.construct, VcpuInfo.bits64.construct
VCPU_TIME_INFO, START_INFO = VcpuTimeInfo.bits64.construct, StartInfo.bits64.construct


def offset_of(layout: construct.Struct, path: Sequence[str | int]) -> int:
    """The offset in bytes of the field at `path` in `layout`."""
    if not path:
        return 0
    name, *rest = path
    if isinstance(layout, construct.Renamed):
        return offset_of(layout.subcon, path)
    if isinstance(name, int):
        return name * int(layout.subcon.sizeof()) + offset_of(layout.subcon, rest)
    at = 0
    for field in layout.subcons:
        if field.name == name:
            return at + offset_of(field, rest)
        at += field.sizeof()
    raise KeyError(name)


@pytest.mark.parametrize(
    ("layout", "path", "offset"),
    [
        (VCPU_INFO, ["evtchn_upcall_pending"], xen.VCPU_INFO_UPCALL_PENDING),
        (VCPU_INFO, ["evtchn_upcall_mask"], xen.VCPU_INFO_UPCALL_MASK),
        (VCPU_INFO, ["evtchn_pending_sel"], xen.VCPU_INFO_PENDING_SEL),
        (VCPU_INFO, ["cr2"], xen.VCPU_INFO_CR2),
        (VCPU_INFO, ["time"], xen.VCPU_INFO_TIME),
        (SHARED_INFO, ["evtchn_pending"], xen.SHARED_INFO_EVTCHN_PENDING),
        (SHARED_INFO, ["evtchn_mask"], xen.SHARED_INFO_EVTCHN_MASK),
        (SHARED_INFO, ["wc_version"], 3072),
        (SHARED_INFO, ["wc_sec_hi"], 3084),
        (SHARED_INFO, ["vcpu_info", 3], 3 * xen.VCPU_INFO_SIZE),
        (XENCONS_INTERFACE, ["in"], io_console.INPUT),
        (XENCONS_INTERFACE, ["out"], io_console.OUTPUT),
        (XENCONS_INTERFACE, ["in_cons"], io_console.IN_CONS),
        (XENCONS_INTERFACE, ["in_prod"], io_console.IN_PROD),
        (XENCONS_INTERFACE, ["out_cons"], io_console.OUT_CONS),
        (XENCONS_INTERFACE, ["out_prod"], io_console.OUT_PROD),
        (ring.SRING, ["req_prod"], ring.REQ_PROD),
        (ring.SRING, ["req_event"], ring.REQ_EVENT),
        (ring.SRING, ["rsp_prod"], ring.RSP_PROD),
        (ring.SRING, ["rsp_event"], ring.RSP_EVENT),
        # As in the headers.
        (START_INFO, ["nr_pages"], 32),
        (START_INFO, ["store_mfn"], 56),
        (START_INFO, ["console_mfn"], 72),
        (START_INFO, ["mfn_list"], 104),
        (START_INFO, ["cmd_line"], 128),
        (START_INFO, ["first_p2m_pfn"], 1152),
    ],
)
def test_offset(layout: construct.Struct, path: list[str | int], offset: int) -> None:
    assert offset_of(layout, path) == offset


@pytest.mark.parametrize(
    ("layout", "size"),
    [
        (VCPU_INFO, xen.VCPU_INFO_SIZE),
        (VCPU_TIME_INFO, 32),
        (SHARED_INFO, 3136),
        (XENCONS_INTERFACE, 3088),
        (ring.SRING, ring.ENTRIES),
        (START_INFO, 1168),
    ],
)
def test_size(layout: construct.Struct, size: int) -> None:
    assert layout.sizeof() == size


def test_numbers_that_nobody_may_change() -> None:
    assert (xen.Hypercall.mmu_update, xen.Hypercall.iret, xen.Hypercall.event_channel_op) == (
        1,
        23,
        32,
    )
    assert xen.EVTCHN_2L_NR_CHANNELS == SHARED_INFO.evtchn_pending.sizeof() * 8


def test_every_entry_of_the_table_is_a_hypercall() -> None:
    assert set(TABLE) <= set(xen.Hypercall)
    assert all(0 <= entry.arguments <= 6 for entry in TABLE.values())
