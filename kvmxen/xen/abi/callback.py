"""The structure of xen/include/public/callback.h."""

from __future__ import annotations

from kvmxen.xen.abi.structure import U16, Structure, ULong


class CallbackRegister(Structure, widths=(64,)):
    type = U16()
    flags = U16()
    address = ULong()
