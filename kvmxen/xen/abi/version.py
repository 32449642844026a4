"""The structures of xen/include/public/version.h."""

from __future__ import annotations

from kvmxen.xen.abi.structure import U32, Bytes, Structure, ULong


class XenExtraversion(Structure):
    text = Bytes(16)


class XenCompileInfo(Structure):
    compiler = Bytes(64)
    compile_by = Bytes(16)
    compile_domain = Bytes(32)
    compile_date = Bytes(32)


class XenCapabilitiesInfo(Structure):
    text = Bytes(1024)


class XenChangesetInfo(Structure):
    text = Bytes(64)


class XenCommandline(Structure):
    text = Bytes(1024)


class XenPlatformParameters(Structure):
    virt_start = ULong()


class XenFeatureInfo(Structure):
    submap_idx = U32()
    submap = U32()
