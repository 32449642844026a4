"""The structures of xen/include/public/memory.h."""

from __future__ import annotations

from kvmxen.xen.abi.structure import U16, U32, U64, Nested, Structure, ULong


class XenMemoryReservation(Structure):
    extent_start = ULong()
    nr_extents = ULong()
    extent_order = U32()
    mem_flags = U32()
    domid = U16()


class XenMemoryExchange(Structure):
    # `in` in C, a keyword in Python.
    source = Nested(XenMemoryReservation)
    out = Nested(XenMemoryReservation)
    nr_exchanged = ULong()


class XenMachphysMfnList(Structure):
    max_extents = U32()
    extent_start = ULong()
    nr_extents = U32()


class XenMachphysMapping(Structure):
    v_start = ULong()
    v_end = ULong()
    max_mfn = ULong()


class XenMemoryMap(Structure):
    nr_entries = U32()
    buffer = ULong()


class E820Entry(Structure, packed=True):
    """An entry of that map (xen/include/asm-x86/e820.h)."""

    addr = U64()
    size = U64()
    type = U32()
