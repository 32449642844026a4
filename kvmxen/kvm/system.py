"""/dev/kvm itself: the version, capabilities, supported CPUID, and new VMs."""

from __future__ import annotations

import errno
import os
from enum import IntEnum
from pathlib import Path

from kvmxen.errors import KvmxenError
from kvmxen.kvm.access import DEVICE, open_device
from kvmxen.kvm.ioctl import KvmError, call, io, iowr
from kvmxen.kvm.structs import MAX_CPUID_ENTRIES, Cpuid, CpuidEntry

API_VERSION = 12

_GET_API_VERSION = io(0x00)
_CREATE_VM = io(0x01)
_CHECK_EXTENSION = io(0x03)
_GET_VCPU_MMAP_SIZE = io(0x04)
# The ioctl number contains the size of kvm_cpuid2's header alone.
_GET_SUPPORTED_CPUID = iowr(0x05, 8)


class Cap(IntEnum):
    """The KVM_CAP_* numbers that kvmxen asks for."""

    USER_MEMORY = 3
    IRQFD = 32
    IOEVENTFD = 36
    XEN_HVM = 38
    MAX_VCPUS = 66
    TSC_DEADLINE_TIMER = 72
    SYNC_REGS = 74
    SIGNAL_MSI = 77
    SPLIT_IRQCHIP = 121
    IMMEDIATE_EXIT = 136


class System:
    """An open /dev/kvm. Raises KvmxenError, which says what to do, if it cannot be opened."""

    def __init__(self, path: Path = DEVICE) -> None:
        self.fd = open_device(path)
        try:
            version = call(self.fd, "KVM_GET_API_VERSION", _GET_API_VERSION)
        except KvmError:
            self.close()
            raise KvmxenError(f"{path} is not a KVM device; load the kvm module") from None
        if version != API_VERSION:
            self.close()
            raise KvmxenError(f"{path} offers KVM API {version}, but kvmxen needs {API_VERSION}")

    def close(self) -> None:
        """Close the fd; its VMs stay."""
        os.close(self.fd)

    def check_extension(self, cap: Cap) -> int:
        """KVM_CHECK_EXTENSION: 0 if the host lacks it."""
        return call(self.fd, "KVM_CHECK_EXTENSION", _CHECK_EXTENSION, int(cap))

    def vcpu_mmap_size(self) -> int:
        """KVM_GET_VCPU_MMAP_SIZE: bytes of a vCPU's kvm_run area."""
        return call(self.fd, "KVM_GET_VCPU_MMAP_SIZE", _GET_VCPU_MMAP_SIZE)

    def supported_cpuid(self) -> list[CpuidEntry]:
        """KVM_GET_SUPPORTED_CPUID."""
        table = Cpuid(nent=MAX_CPUID_ENTRIES)
        call(self.fd, "KVM_GET_SUPPORTED_CPUID", _GET_SUPPORTED_CPUID, table)
        return list(table.entries[: table.nent])

    def create_vm(self) -> int:
        """KVM_CREATE_VM: the new VM's fd."""
        while True:
            try:
                return call(self.fd, "KVM_CREATE_VM", _CREATE_VM)
            except KvmError as error:
                if error.errno != errno.EINTR:
                    raise
