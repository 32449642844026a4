"""A vCPU's fd: every ioctl except KVM_RUN, which is in kvmxen/vcpu.pyx."""

from __future__ import annotations

import mmap
import os
from ctypes import sizeof

from kvmxen.kvm.ioctl import KvmError, call, io, ior, iow, iowr
from kvmxen.kvm.structs import (
    MAX_CPUID_ENTRIES,
    Cpuid,
    CpuidEntry,
    Debugregs,
    MpState,
    OneMsr,
    Sregs,
    Xcrs,
)
from kvmxen.kvm.system import System
from kvmxen.kvm.vm import Vm

_GET_SREGS = ior(0x83, sizeof(Sregs))
_SET_SREGS = iow(0x84, sizeof(Sregs))
_GET_TSC_KHZ = io(0xA3)
_GET_MSRS = iowr(0x88, 8)
_SET_MSRS = iow(0x89, 8)
_SET_CPUID2 = iow(0x90, 8)
_SET_MP_STATE = iow(0x99, sizeof(MpState))
_GET_DEBUGREGS = ior(0xA1, sizeof(Debugregs))
_SET_DEBUGREGS = iow(0xA2, sizeof(Debugregs))
_SET_XCRS = iow(0xA7, sizeof(Xcrs))
_MP_STATE_RUNNABLE = 0


class VcpuFd:
    """vCPU `index` of `vm`: its fd and its mapped kvm_run area."""

    def __init__(self, system: System, vm: Vm, index: int) -> None:
        self.index = index
        self.fd = vm.create_vcpu(index)
        self.run = mmap.mmap(self.fd, system.vcpu_mmap_size())

    def close(self) -> None:
        """Unmap kvm_run and close the fd. The vCPU's thread must have left KVM_RUN."""
        self.run.close()
        os.close(self.fd)

    def get_sregs(self) -> Sregs:
        """KVM_GET_SREGS."""
        sregs = Sregs()
        call(self.fd, "KVM_GET_SREGS", _GET_SREGS, sregs)
        return sregs

    def set_sregs(self, sregs: Sregs) -> None:
        """KVM_SET_SREGS."""
        call(self.fd, "KVM_SET_SREGS", _SET_SREGS, sregs)

    def get_msr(self, index: int) -> int:
        """KVM_GET_MSRS of one MSR; raises KvmError if KVM does not know it."""
        request = OneMsr(nmsrs=1)
        request.entry.index = index
        if call(self.fd, f"KVM_GET_MSRS({index:#x})", _GET_MSRS, request) != 1:
            raise KvmError(f"KVM_GET_MSRS({index:#x})", 0)
        return int(request.entry.data)

    def set_msr(self, index: int, value: int) -> None:
        """KVM_SET_MSRS of one MSR; raises KvmError if KVM refuses it."""
        request = OneMsr(nmsrs=1)
        request.entry.index = index
        request.entry.data = value
        if call(self.fd, f"KVM_SET_MSRS({index:#x})", _SET_MSRS, request) != 1:
            raise KvmError(f"KVM_SET_MSRS({index:#x})", 0)

    def set_cpuid(self, entries: list[CpuidEntry]) -> None:
        """KVM_SET_CPUID2; at most MAX_CPUID_ENTRIES."""
        if len(entries) > MAX_CPUID_ENTRIES:
            raise ValueError("too many CPUID entries")
        table = Cpuid(nent=len(entries))
        table.entries[: len(entries)] = entries
        call(self.fd, "KVM_SET_CPUID2", _SET_CPUID2, table)

    def set_runnable(self) -> None:
        """KVM_SET_MP_STATE: do not wait for the INIT and SIPI that start an additional vCPU."""
        call(self.fd, "KVM_SET_MP_STATE", _SET_MP_STATE, MpState(mp_state=_MP_STATE_RUNNABLE))

    def get_debugregs(self) -> Debugregs:
        """KVM_GET_DEBUGREGS."""
        debugregs = Debugregs()
        call(self.fd, "KVM_GET_DEBUGREGS", _GET_DEBUGREGS, debugregs)
        return debugregs

    def set_debugregs(self, debugregs: Debugregs) -> None:
        """KVM_SET_DEBUGREGS."""
        call(self.fd, "KVM_SET_DEBUGREGS", _SET_DEBUGREGS, debugregs)

    def set_xcr0(self, value: int) -> None:
        """KVM_SET_XCRS: XCR0."""
        xcrs = Xcrs(nr_xcrs=1)
        xcrs.xcrs[0].value = value
        call(self.fd, "KVM_SET_XCRS", _SET_XCRS, xcrs)

    def tsc_khz(self) -> int:
        """KVM_GET_TSC_KHZ: the guest's time-stamp counter, in kHz."""
        return call(self.fd, "KVM_GET_TSC_KHZ", _GET_TSC_KHZ)
