"""xen_version and vm_assist. Source: xen/include/public/version.h and features.h."""

from __future__ import annotations

import errno
import struct
from enum import IntEnum

from kvmxen import __version__
from kvmxen.abi import xen
from kvmxen.cpu import Cpu
from kvmxen.errors import HypercallError
from kvmxen.layout import PAGE_SIZE

CAPABILITIES = b"xen-3.0-x86_64 "

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


_TEXTS = {
    Version.EXTRAVERSION: struct.pack("16s", b".0-kvmxen"),
    Version.COMPILE_INFO: struct.pack("64s16s32s32s", b"", b"kvmxen", b"", b""),
    Version.CAPABILITIES: CAPABILITIES.ljust(1024, b"\0"),
    Version.CHANGESET: struct.pack("64s", f"kvmxen {__version__}".encode()),
    Version.PLATFORM_PARAMETERS: struct.pack("<Q", xen.HYPERVISOR_VIRT_START),
    Version.COMMANDLINE: bytes(1024),
}


def xen_version(cpu: Cpu, command: int, argument: int) -> int:
    """Answer one XENVER query. Guests also call it to get pending events delivered."""
    command &= 0xFFFFFFFF
    if command == Version.VERSION:
        return xen.XEN_VERSION
    if command == Version.PAGESIZE:
        return PAGE_SIZE
    if command == Version.GET_FEATURES:
        index = cpu.read_u32(argument)
        if index:
            raise HypercallError(errno.EINVAL)
        cpu.write_u32(argument + 4, FEATURES)
        return 0
    if command == Version.GUEST_HANDLE:
        cpu.write(argument, cpu.machine.uuid.bytes)
        return 0
    text = _TEXTS.get(Version(command)) if command in list(Version) else None
    if text is None:
        raise HypercallError(errno.ENOSYS)
    cpu.write(argument, text)
    return 0


_VM_ASSISTS = frozenset({0, 1, 2, 3, 4, 5})


def vm_assist(cpu: Cpu, command: int, assist: int) -> int:
    """Enable or disable an assist: all but the architectural IOPL always act as enabled."""
    command, assist = command & 0xFFFFFFFF, assist & 0xFFFFFFFF
    if command not in (xen.VMASST_CMD_enable, xen.VMASST_CMD_disable):
        raise HypercallError(errno.ENOSYS)
    if assist not in _VM_ASSISTS:
        raise HypercallError(errno.EINVAL)
    if assist == xen.VMASST_TYPE_architectural_iopl:
        for each in cpu.machine.cpus:
            each.vcpu.architectural_iopl = command == xen.VMASST_CMD_enable
    return 0
