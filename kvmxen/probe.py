"""What this host's KVM does with a guest: measured at each boot, by running a few instructions.

Behaviour, not names: ordinary hosts answer one way, a KVM that shadows page tables or runs
ring 3 natively without hardware help another.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvmxen.errors import GuestCrash, KvmxenError
from kvmxen.kvm.vcpu import VcpuFd
from kvmxen.layout import PAGE_SIZE
from kvmxen.memory import GuestMemory
from kvmxen.shim.abi import constants
from kvmxen.shim.image import XEN_FIRST_SLOT, Placement, ShimImage
from kvmxen.shim.start import CR0, prepare
from kvmxen.vcpu import Vcpu

_C = constants()
_BREAKPOINT = 3
_ENTRY = 0x67
_CODE_VA = 0x10000000000
_DATA_VA = _CODE_VA + PAGE_SIZE
_STACK_VA = _DATA_VA + PAGE_SIZE
# mov (%rsi), %rax; int3 - cpuid; int3 - syscall - wrfsbase %rax; int3 - rdfsbase %rax; int3
_LOAD = bytes.fromhex("488b06cc")
_CPUID = bytes.fromhex("0fa2cc")
_SYSCALL = bytes.fromhex("0f05")
_WRITE_FS_BASE = bytes.fromhex("f3480faed0cc")
_READ_FS_BASE = bytes.fromhex("f3480faec0cc")
_HYPERVISOR_LEAF = 0x40000000
_XEN = b"XenVMMXenVMM"


@dataclass(frozen=True)
class Probe:
    """`sees_host_stores`: a store of the host to a live page table counts at the next flush.
    `syscall_enters_ring0`, `filters_cpuid`: as the manuals have it. `reaches_xen_m2p`: ring 3
    can read the L4 slot in which guests that do not ask expect the machine-to-physical table.
    `sets_fs_base`: ring 3 can set its FS base, though its CR4 does not allow that.
    """

    sees_host_stores: bool
    syscall_enters_ring0: bool
    filters_cpuid: bool
    reaches_xen_m2p: bool
    sets_fs_base: bool

    @property
    def placement(self) -> Placement:
        """Where a dispatcher can run: behind LSTAR, in whichever ring that is."""
        return Placement.RING0 if self.syscall_enters_ring0 else Placement.RING3


def probe(memory: GuestMemory, image: ShimImage, fd: VcpuFd) -> Probe:
    """Run the probe on vCPU `fd`, in frames of the shim's: a KVM that shadows page tables may
    remember those that it has seen here.

    Raises KvmxenError where not even these instructions run.
    """
    l4, l3, l2, l1, code, one, two, stack = (image.new_frame() for _ in range(8))
    for slot, entry in enumerate(image.slots.kernel, XEN_FIRST_SLOT):
        memory.write_u64(l4 + slot * 8, entry)
    memory.write_u64(l4 + (_CODE_VA >> 39) * 8, l3 | _ENTRY)
    memory.write_u64(l3, l2 | _ENTRY)
    memory.write_u64(l2, l1 | _ENTRY)
    for index, frame in enumerate((code, one, stack)):
        memory.write_u64(l1 + index * 8, frame | _ENTRY)
    memory.write_u64(one, 1)
    memory.write_u64(two, 2)
    prepare(fd, image, Placement.EXITS, cr3=l4, pat=0x0007040600070406, xcr0=0)
    part = image.vcpu_gpa(fd.index)
    vcpu = Vcpu(memory, fd.index, fd.fd, fd.run, part, _C["VCPU_SIZE"], CR0)
    vcpu.kernel_cr3 = l4

    def run(instructions: bytes) -> int:
        at = offsets[instructions]
        vcpu.rip, vcpu.rsp = _CODE_VA + at, _STACK_VA + PAGE_SIZE
        return int(vcpu.run())

    offsets = {}
    for index, instructions in enumerate((_LOAD, _CPUID, _SYSCALL, _WRITE_FS_BASE, _READ_FS_BASE)):
        offsets[instructions] = index * 16
        memory.write(code + index * 16, instructions)
    try:
        vcpu.rsi = _DATA_VA
        if run(_LOAD) != _BREAKPOINT or vcpu.rax != 1:
            raise KvmxenError("this host's KVM does not run the shim; see 'kvmxen doctor'")
        memory.write_u64(l1 + 8, two | _ENTRY)
        vcpu.flush_tlb()
        run(_LOAD)
        seen = vcpu.rax == 2
        vcpu.rax, vcpu.rcx = _HYPERVISOR_LEAF, 0
        run(_CPUID)
        signature = b"".join(
            register.to_bytes(4, "little") for register in (vcpu.rbx, vcpu.rcx, vcpu.rdx)
        )
        vcpu.rsi = _C["XEN_M2P_VA"]
        reached = run(_LOAD) == _BREAKPOINT
        run(_SYSCALL)
        ring0 = vcpu.syscall_ring == 0
        vcpu.rax = _STACK_VA
        sets = run(_WRITE_FS_BASE) == _BREAKPOINT and fd.get_sregs().fs.base == _STACK_VA
        vcpu.rax = 0
        sets = sets and run(_READ_FS_BASE) == _BREAKPOINT and vcpu.rax == _STACK_VA
    except GuestCrash as crash:
        raise KvmxenError(
            f"this host's KVM does not run the shim ({crash}); see 'kvmxen doctor'"
        ) from None
    return Probe(seen, ring0, signature == _XEN, reached, sets)
