"""The structure of xen/include/public/physdev.h that a domain without devices may use."""

from __future__ import annotations

from kvmxen.xen.abi.structure import U32, Structure, ULong


class PhysdevSetIobitmap(Structure):
    bitmap = ULong()
    nr_ports = U32()
