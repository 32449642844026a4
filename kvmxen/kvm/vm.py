"""A VM's fd: memory slots, the interrupt chip, MSIs, the clock, and new vCPUs."""

from __future__ import annotations

import os
from ctypes import sizeof

from kvmxen.kvm.ioctl import call, io, ior, iow
from kvmxen.kvm.structs import ClockData, EnableCap, IoEventFd, MemoryRegion, Msi
from kvmxen.kvm.system import Cap, System

_CREATE_VCPU = io(0x41)
_SET_USER_MEMORY_REGION = iow(0x46, sizeof(MemoryRegion))
_SIGNAL_MSI = iow(0xA5, sizeof(Msi))
_GET_CLOCK = ior(0x7C, sizeof(ClockData))
_ENABLE_CAP = iow(0xA3, sizeof(EnableCap))

_IOEVENTFD = iow(0x79, sizeof(IoEventFd))

_IOEVENTFD_DATAMATCH, _IOEVENTFD_PIO, _IOEVENTFD_DEASSIGN = 1, 2, 4
_MSI_ADDRESS = 0xFEE00000


class Vm:
    """One virtual machine of `system`."""

    def __init__(self, system: System) -> None:
        self.fd = system.create_vm()

    def close(self) -> None:
        """Close the fd; the VM ends once its vCPUs are closed too."""
        os.close(self.fd)

    def enable_cap(self, cap: Cap, argument: int) -> None:
        """KVM_ENABLE_CAP with one argument."""
        request = EnableCap(cap=int(cap))
        request.args[0] = argument
        call(self.fd, f"KVM_ENABLE_CAP({cap.name})", _ENABLE_CAP, request)

    def set_memory(self, slot: int, gpa: int, size: int, host_address: int) -> None:
        """KVM_SET_USER_MEMORY_REGION: `size` bytes at `gpa` backed by `host_address`."""
        region = MemoryRegion(slot, 0, gpa, size, host_address)
        call(self.fd, "KVM_SET_USER_MEMORY_REGION", _SET_USER_MEMORY_REGION, region)

    def create_vcpu(self, index: int) -> int:
        """KVM_CREATE_VCPU: the fd of vCPU `index`, whose APIC id is `index`."""
        return call(self.fd, "KVM_CREATE_VCPU", _CREATE_VCPU, index)

    def signal_msi(self, index: int, vector: int) -> None:
        """KVM_SIGNAL_MSI: raise interrupt `vector` on vCPU `index`."""
        message = Msi(address_lo=_MSI_ADDRESS | index << 12, data=vector)
        call(self.fd, "KVM_SIGNAL_MSI", _SIGNAL_MSI, message)

    def listen(self, port: int, value: int, eventfd: int, on: bool) -> None:
        """KVM_IOEVENTFD: make a write of the 32-bit `value` to the I/O port `port` ring `eventfd`
        without an exit; if `on` is false, undo that."""
        flags = _IOEVENTFD_DATAMATCH | _IOEVENTFD_PIO | (0 if on else _IOEVENTFD_DEASSIGN)
        request = IoEventFd(value, port, 4, eventfd, flags)
        call(self.fd, "KVM_IOEVENTFD", _IOEVENTFD, request)

    def clock(self) -> int:
        """KVM_GET_CLOCK: ns since the VM's clock started; pvclock shows the guest the same."""
        data = ClockData()
        call(self.fd, "KVM_GET_CLOCK", _GET_CLOCK, data)
        return int(data.clock)
