"""Finds out at each boot what this host's KVM does with a guest, by running a few instructions.

The probe tests behaviour, not names: ordinary hosts behave one way, a KVM that shadows page
tables or runs ring 3 natively without hardware help another.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvmxen.errors import GuestCrash, KvmxenError
from kvmxen.kvm.memory import GuestMemory
from kvmxen.kvm.vcpu import VcpuFd
from kvmxen.pv.features import Features, look
from kvmxen.pv.ring3 import Ring3
from kvmxen.pv.shim.abi import constants
from kvmxen.pv.shim.image import Placement, ShimImage
from kvmxen.xen.abi import x86, xen
from kvmxen.xen.cpuid import CpuidPolicy

_C = constants()
# mov (%rsi), %rax - syscall - wrfsbase %rax - rdfsbase %rax
_LOAD = bytes.fromhex("488b06")
_SYSCALL = bytes.fromhex("0f05")
_WRITE_FS_BASE = bytes.fromhex("f3480faed0")
_READ_FS_BASE = bytes.fromhex("f3480faec0")


@dataclass(frozen=True)
class Probe:
    """`sees_host_stores`: a host's store to a live page table takes effect at the next flush.
    `syscall_enters_ring0`: as the manuals say. `reaches_xen_m2p`: ring 3 can read the L4 slot
    in which guests that do not ask expect the machine-to-physical table. `sets_fs_base`: ring 3
    can set its FS base, although its CR4 does not allow it.
    """

    sees_host_stores: bool
    syscall_enters_ring0: bool
    reaches_xen_m2p: bool
    sets_fs_base: bool
    features: Features

    @property
    def placement(self) -> Placement:
        """Where a dispatcher can run: in the ring in which SYSCALL enters LSTAR."""
        return Placement.RING0 if self.syscall_enters_ring0 else Placement.RING3


def probe(memory: GuestMemory, image: ShimImage, fd: VcpuFd, told: CpuidPolicy) -> Probe:
    """Run the probe on vCPU `fd`, which no guest uses later, in frames of the shim: a KVM that
    shadows page tables may remember the tables that it has seen here. `told` is its CPUID.

    Raises KvmxenError if even these instructions fail.
    """
    ring3 = Ring3(memory, image, fd, xcr0=told.xcr0)
    vcpu = ring3.vcpu

    def runs(code: bytes) -> bool:
        ring3.load(code)
        return ring3.run() == x86.TRAP_BREAKPOINT

    def load(value: int) -> bool:
        vcpu.rsi = ring3.data_va
        return runs(_LOAD) and vcpu.rax == value

    other = image.new_frame()
    memory.write_u64(other, 2)
    try:
        memory.write_u64(ring3.data_gpa, 1)
        if not load(1):
            raise KvmxenError("this host's KVM cannot run the shim; see 'kvmxen doctor'")
        features = look(memory, ring3, told)
        ring3.move_data(other)
        seen = load(2)
        vcpu.rsi = xen.HYPERVISOR_VIRT_START
        reached = runs(_LOAD)
        runs(_SYSCALL)
        ring0 = vcpu.syscall_ring == 0
        vcpu.rax = ring3.data_va
        sets = runs(_WRITE_FS_BASE) and fd.get_sregs().fs.base == ring3.data_va
        vcpu.rax = 0
        sets = sets and runs(_READ_FS_BASE) and vcpu.rax == ring3.data_va
    except GuestCrash as crash:
        raise KvmxenError(
            f"this host's KVM cannot run the shim ({crash}); see 'kvmxen doctor'"
        ) from None
    return Probe(seen, ring0, reached, sets, features)
