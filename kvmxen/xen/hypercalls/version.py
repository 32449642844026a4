"""xen_version. Source: xen/include/public/version.h and features.h."""

from __future__ import annotations

import errno
from enum import IntEnum

from kvmxen import __version__
from kvmxen.errors import HypercallError
from kvmxen.kvm.layout import PAGE_SIZE
from kvmxen.xen.abi import xen
from kvmxen.xen.abi.structure import Structure
from kvmxen.xen.abi.version import (
    XenCapabilitiesInfo,
    XenChangesetInfo,
    XenCommandline,
    XenCompileInfo,
    XenExtraversion,
    XenFeatureInfo,
    XenPlatformParameters,
)
from kvmxen.xen.hypercalls.caller import Caller

CAPABILITIES = b"xen-3.0-x86_64 "
EXTRAVERSION = b".0-kvmxen"

# XENFEAT_*: pae_pgdir_above_4gb, mmu_pt_update_preserve_ad, gnttab_map_avail_bits,
# memory_op_vnode_supported.
FEATURES = 1 << 4 | 1 << 5 | 1 << 7 | 1 << 13


class Version(IntEnum):
    """XENVER_*"""

    VERSION = xen.XENVER_version
    EXTRAVERSION = xen.XENVER_extraversion
    COMPILE_INFO = xen.XENVER_compile_info
    CAPABILITIES = xen.XENVER_capabilities
    CHANGESET = xen.XENVER_changeset
    PLATFORM_PARAMETERS = xen.XENVER_platform_parameters
    GET_FEATURES = xen.XENVER_get_features
    PAGESIZE = xen.XENVER_pagesize
    GUEST_HANDLE = xen.XENVER_guest_handle
    COMMANDLINE = xen.XENVER_commandline


_ANSWERS: dict[int, Structure] = {
    Version.EXTRAVERSION: XenExtraversion(text=EXTRAVERSION),
    Version.COMPILE_INFO: XenCompileInfo(compile_by=b"kvmxen"),
    Version.CAPABILITIES: XenCapabilitiesInfo(text=CAPABILITIES),
    Version.CHANGESET: XenChangesetInfo(text=f"kvmxen {__version__}".encode()),
    Version.PLATFORM_PARAMETERS: XenPlatformParameters(virt_start=xen.HYPERVISOR_VIRT_START),
    Version.COMMANDLINE: XenCommandline(),
}


def xen_version(cpu: Caller, command: int, argument: int) -> int:
    """Answer one XENVER query. Guests also call it to get pending events delivered."""
    command &= 0xFFFFFFFF
    if command == Version.VERSION:
        return xen.XEN_VERSION
    if command == Version.PAGESIZE:
        return PAGE_SIZE
    if command == Version.GET_FEATURES:
        if XenFeatureInfo.submap_idx.load(cpu, argument):
            raise HypercallError(errno.EINVAL)
        XenFeatureInfo.submap.store(cpu, argument, FEATURES)
        return 0
    if command == Version.GUEST_HANDLE:
        cpu.write(argument, cpu.machine.uuid.bytes)
        return 0
    answer = _ANSWERS.get(command)
    if answer is None:
        raise HypercallError(errno.ENOSYS)
    answer.store(cpu, argument)
    return 0
