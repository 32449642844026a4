"""Xen's structures: their places are those of C, on both widths, and each view agrees."""

from __future__ import annotations

import importlib
import pkgutil
import re
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import kvmxen.xen.abi
from kvmxen.errors import GuestFault
from kvmxen.xen.abi.arch_xen import TrapInfo
from kvmxen.xen.abi.grant_table import GnttabCopy, GnttabCopyPtr, GnttabMapGrantRef
from kvmxen.xen.abi.memory import E820Entry, XenMemoryReservation
from kvmxen.xen.abi.sched import SchedPoll
from kvmxen.xen.abi.shared_info import VcpuTimeInfo
from kvmxen.xen.abi.structure import U8, U16, U32, U64, Array, Bytes, Nested, Structure, ULong

GUESTS = Path(kvmxen.xen.abi.__file__).parents[2] / "guests" / "lib"


def all_structures() -> Iterable[type[Structure]]:
    for module in pkgutil.iter_modules(kvmxen.xen.abi.__path__, "kvmxen.xen.abi."):
        if not module.ispkg:
            names = vars(importlib.import_module(module.name))
            yield from (
                each
                for each in names.values()
                if isinstance(each, type) and issubclass(each, Structure) and each is not Structure
            )


STRUCTURES = {each.__name__: each for each in all_structures()}
# Names in C that differ.
IN_C = {"E820Entry": "e820_entry"}
# Our guests' structures that are no Structure here: of one number; in Cython; in shared rings.
NOT_HERE = {
    *("evtchn_port", "sched_shutdown", "vcpu_set_periodic_timer"),
    "mmu_update",
    *("sring", "xencons_interface", "xenstore_domain_interface", "xsd_sockmsg"),
}
# Bytes for 64-bit and 32-bit guests: sizeof() of the header's structures with gcc -m64 and -m32.
SIZES = {
    "CallbackRegister": (16,),
    "CpuUserRegs": (200,),
    "E820Entry": (20, 20),
    "EvtchnAllocUnbound": (8, 8),
    "EvtchnBindInterdomain": (12, 12),
    "EvtchnBindIpi": (8, 8),
    "EvtchnBindVcpu": (8, 8),
    "EvtchnBindVirq": (12, 12),
    "EvtchnStatus": (24, 24),
    "GnttabCacheFlush": (16, 16),
    "GnttabCopy": (40, 24),
    "GnttabCopyPtr": (16, 8),
    "GnttabGetStatusFrames": (16, 12),
    "GnttabGetVersion": (8, 8),
    "GnttabMapGrantRef": (32, 32),
    "GnttabQuerySize": (16, 16),
    "GnttabSetupTable": (24, 16),
    "GnttabSwapGrantRef": (12, 12),
    "GnttabUnmapAndReplace": (24, 24),
    "GnttabUnmapGrantRef": (24, 24),
    "GrantEntryV1": (8, 8),
    "GrantEntryV2": (16, 16),
    "MmuextOp": (24, 12),
    "MulticallEntry": (64, 32),
    "PhysdevSetIobitmap": (16, 8),
    "SchedPoll": (24, 16),
    "SchedWatchdog": (8, 8),
    "SharedInfo": (3136,),
    "StartInfo": (1168, 1112),
    "TrapInfo": (16, 8),
    "VcpuGuestContext": (5168,),
    "VcpuInfo": (64,),
    "VcpuRegisterVcpuInfo": (16, 16),
    "VcpuRunstateInfo": (48, 44),
    "VcpuSetSingleshotTimer": (16, 12),
    "VcpuTimeInfo": (32, 32),
    "XenCapabilitiesInfo": (1024, 1024),
    "XenChangesetInfo": (64, 64),
    "XenCommandline": (1024, 1024),
    "XenCompileInfo": (144, 144),
    "XenExtraversion": (16, 16),
    "XenFeatureInfo": (8, 8),
    "XenMachphysMapping": (24, 12),
    "XenMachphysMfnList": (24, 12),
    "XenMemoryExchange": (72, 44),
    "XenMemoryMap": (16, 8),
    "XenMemoryReservation": (32, 20),
    "XenPlatformParameters": (8, 4),
}


def in_c(name: str) -> str:
    return IN_C.get(name, re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())


@pytest.mark.parametrize("name", STRUCTURES)
def test_sizes_are_the_headers(name: str) -> None:
    layouts = [STRUCTURES[name].layout(width) for width in STRUCTURES[name].widths]
    assert tuple(layout.size for layout in layouts) == SIZES[name]


def test_our_guests_have_the_same_structures(tmp_path: Path) -> None:
    """The C compiler finds each field of the structures in xen.h where we do."""
    header = (GUESTS / "xen.h").read_text()
    lines = ['#include "guest.h"', '#include "xen.h"']
    theirs = set(re.findall(r"^struct (\w+) \{", header, re.MULTILINE))
    ours = {in_c(name): each for name, each in STRUCTURES.items()}
    assert theirs - set(ours) == NOT_HERE
    for name in sorted(theirs & set(ours)):
        layout = ours[name].bits64
        lines.append(f'_Static_assert(sizeof(struct {name}) == {layout.size}, "{name}");')
        for field, (offset, codes) in layout.fields.items():
            member = f"((struct {name} *)0)->{field}"
            here = f"offsetof(struct {name}, {field}) == {offset}"
            size = f"sizeof({member}) == {struct.calcsize(codes)}"
            lines.append(f'_Static_assert({here} && {size}, "{name}.{field}");')
    source = tmp_path / "places.c"
    source.write_text("\n".join(lines))
    folders = ("-I", str(GUESTS), "-I", str(GUESTS.parents[1]))
    command = ["gcc", "-ffreestanding", "-fsyntax-only", *folders, str(source)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.stderr == ""


# Values, and their bytes as Xen's headers and the psABI place them, written by hand: for 64-bit
# guests, and for 32-bit ones.
_PTR = GnttabCopyPtr(u=0x55667788, domid=0x7FF0, offset=0x0102)
GOLDEN = [
    (
        GnttabCopy(source=_PTR, dest=GnttabCopyPtr(u=5), len=0x300, flags=3, status=-3),
        "88776655 00000000 f07f 0201 00000000"
        "05000000 00000000 0000 0000 00000000 0003 0300 fdff 0000",
        "88776655 f07f 0201 05000000 0000 0000 0003 0300 fdff 0000",
    ),
    (
        GnttabMapGrantRef(
            host_addr=0x0102030405060708, flags=0x12, ref=0x34, dom=0x7FF0, status=-1, handle=9
        ),
        "0807060504030201 12000000 34000000 f07f ffff 09000000 0000000000000000",
        "0807060504030201 12000000 34000000 f07f ffff 09000000 0000000000000000",
    ),
    (
        XenMemoryReservation(extent_start=0x1000, nr_extents=2, extent_order=9, domid=0x7FF0),
        "0010000000000000 0200000000000000 09000000 00000000 f07f 000000000000",
        "00100000 02000000 09000000 00000000 f07f 0000",
    ),
    (
        SchedPoll(ports=0x1000, nr_ports=2, timeout=3),
        "0010000000000000 02000000 00000000 0300000000000000",
        "00100000 02000000 0300000000000000",
    ),
    (
        TrapInfo(vector=14, flags=4, cs=0xE033, address=0x81001234),
        "0e 04 33e0 00000000 3412008100000000",
        "0e 04 33e0 34120081",
    ),
    (
        E820Entry(addr=0x100000, size=0x7FF00000, type=1),
        "0000100000000000 0000f07f00000000 01000000",
        "0000100000000000 0000f07f00000000 01000000",
    ),
    (
        VcpuTimeInfo(
            version=2, tsc_timestamp=3, system_time=4, tsc_to_system_mul=5, tsc_shift=-1, flags=1
        ),
        "02000000 00000000 0300000000000000 0400000000000000 05000000 ff 01 0000",
        "02000000 00000000 0300000000000000 0400000000000000 05000000 ff 01 0000",
    ),
]


@pytest.mark.parametrize("width", [64, 32])
@pytest.mark.parametrize(
    ("values", "bytes64", "bytes32"), GOLDEN, ids=[type(row[0]).__name__ for row in GOLDEN]
)
def test_struct_and_construct_write_and_read_the_headers_bytes(
    values: Structure, bytes64: str, bytes32: str, width: int
) -> None:
    layout, data = values.layout(width), bytes.fromhex(bytes64 if width == 64 else bytes32)
    assert layout.pack(*values) == data
    assert layout.unpack(data) == values
    parsed = layout.construct.parse(data)
    assert same(values, parsed)
    assert layout.construct.build(parsed) == data


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, Structure):
        return all(same(getattr(ours, name), theirs[name]) for name in ours.fields)
    if isinstance(ours, tuple):
        return all(map(same, ours, theirs)) and len(ours) == len(theirs)
    return bool(ours == theirs)


# The helper by itself.


class Pair(Structure):
    small = U8()
    long = ULong()


class Everything(Structure):
    first = U16()
    wide = U64()
    pair = Nested(Pair)
    pairs = Array(Nested(Pair), 2)
    numbers = Array(U16(), 3)
    text = Bytes(5)
    last = U32()


class Packed(Structure, packed=True):
    wide = U64()
    number = U32()


class Only64(Structure, widths=(64,)):
    long = ULong()


class Memory:
    """Guest memory that ends."""

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)

    def read(self, va: int, length: int) -> bytes:
        if va + length > len(self.data):
            raise GuestFault(hex(va))
        return bytes(self.data[va : va + length])

    def write(self, va: int, data: bytes) -> None:
        self.read(va, len(data))
        self.data[va : va + len(data)] = data


def test_places_are_those_of_c() -> None:
    def offsets(width: int) -> list[int]:
        return [offset for offset, _ in Everything.layout(width).fields.values()]

    assert offsets(64) == [0, 8, 16, 32, 64, 70, 76]
    assert Everything.bits64.size == 80
    # A 32-bit x86 compiler aligns a uint64_t in a structure to 4 bytes.
    assert offsets(32) == [0, 4, 12, 20, 36, 42, 48]
    assert Everything.bits32.size == 52
    assert (Packed.bits64.size, Packed.bits32.size) == (12, 12)


def test_values() -> None:
    pairs = Pair(small=1, long=2), Pair(small=3)
    one = Everything(wide=1 << 63, pairs=pairs, numbers=(7, 8, 9), text=b"ab", last=6)
    again = Everything.bits32.unpack(Everything.bits32.pack(*one.replace(pair=pairs[0])))
    assert again.first == 0
    assert again.wide == 1 << 63
    assert again.pair == pairs[0]
    assert (again.pairs[0].long, again.pairs[1].small, again.pairs[1].long) == (2, 3, 0)
    assert again.numbers == (7, 8, 9)
    assert again.text == b"ab\0\0\0"
    assert again.last == 6


def test_a_field_that_is_not_there() -> None:
    with pytest.raises(KeyError):
        Pair(smal=1)


@pytest.mark.parametrize("value", [(7, 8), (7, 8, 9, 10)])
def test_an_array_of_another_length(value: tuple[int, ...]) -> None:
    with pytest.raises(struct.error):
        Everything(numbers=value).pack()


def test_a_structure_that_differs_on_32_bits() -> None:
    assert Only64.bits64.size == 8
    with pytest.raises(TypeError, match="Only64 has other fields on 32 bits"):
        _ = Only64.bits32


def test_in_a_guests_memory() -> None:
    memory = Memory(90)
    memory.data[:] = b"\xff" * 90
    everything = Everything(wide=5, pairs=(Pair(long=6), Pair(long=7)))
    everything.store(memory, 8)
    assert Everything.load(memory, 8) == everything
    assert Everything.pairs.load(memory, 8)[1].long == 7
    Everything.last.store(memory, 8, 9)
    Everything.pair.store(memory, 8, Pair(small=1, long=2))
    assert Everything.load(memory, 8) == everything.replace(last=9, pair=Pair(small=1, long=2))
    assert memory.data[:8] + memory.data[88:] == b"\xff" * 10
    for call in (
        lambda: Everything.load(memory, 11),
        lambda: everything.store(memory, 11),
        lambda: Everything.last.load(memory, 11),
        lambda: Everything.last.store(memory, 11, 1),
    ):
        with pytest.raises(GuestFault):
            call()
