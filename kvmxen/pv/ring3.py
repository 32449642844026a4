"""Runs a few instructions in ring 3 of a guest, to see what this host's KVM does with them."""

from __future__ import annotations

from kvmxen.kvm.layout import PAGE_SIZE
from kvmxen.kvm.memory import GuestMemory
from kvmxen.kvm.vcpu import VcpuFd
from kvmxen.pv.gate import PvVcpu
from kvmxen.pv.shim.abi import constants
from kvmxen.pv.shim.image import Placement, ShimImage
from kvmxen.pv.shim.start import CR0, prepare
from kvmxen.xen.abi import x86, xen

_C = constants()
_INT3 = b"\xcc"
_ENTRY = x86.PTE_PRESENT | x86.PTE_WRITE | x86.PTE_USER | x86.PTE_ACCESSED | x86.PTE_DIRTY
_CODE_VA = 0x10000000000
_DATA_VA = _CODE_VA + PAGE_SIZE
_STACK_VA = _DATA_VA + PAGE_SIZE
_PAT = 0x0007040600070406


class Ring3:
    """vCPU `fd` in an address space of a page of code, a page of data and a stack, all in frames
    of the shim. It uses the shim's part of vCPU 0, which must not run yet.

    `vcpu` has its registers; `code_va` and `data_va` are the addresses of the pages, `data_gpa`
    is the first gpa of the data.
    """

    code_va, data_va = _CODE_VA, _DATA_VA

    def __init__(self, memory: GuestMemory, image: ShimImage, fd: VcpuFd, *, xcr0: int) -> None:
        self._memory = memory
        self.fd = fd
        l4, l3, l2, self._l1, self._code, data, stack = (image.new_frame() for _ in range(7))
        for slot, entry in enumerate(image.slots.kernel, xen.XEN_FIRST_SLOT):
            memory.write_u64(l4 + slot * 8, entry)
        memory.write_u64(l4 + (_CODE_VA >> 39) * 8, l3 | _ENTRY)
        memory.write_u64(l3, l2 | _ENTRY)
        memory.write_u64(l2, self._l1 | _ENTRY)
        for index, frame in enumerate((self._code, data, stack)):
            memory.write_u64(self._l1 + index * 8, frame | _ENTRY)
        self.data_gpa = data
        part = image.vcpu_gpa(0)
        prepare(fd, image, Placement.EXITS, part_gpa=part, cr3=l4, pat=_PAT, xcr0=xcr0)
        self.vcpu = PvVcpu(memory, fd.index, fd.fd, fd.run, part, _C["VCPU_SIZE"])
        self.vcpu.create(CR0)
        self.vcpu.kernel_cr3 = l4

    def load(self, code: bytes) -> None:
        """Load `code` and an int3, at most a page in all."""
        self._memory.write(self._code, code + _INT3)

    def run(self, offset: int = 0) -> int:
        """Run the loaded code from `offset`; returns its first trap's vector: #BP at its end."""
        self.vcpu.rip, self.vcpu.rsp = _CODE_VA + offset, _STACK_VA + PAGE_SIZE
        return int(self.vcpu.run())

    def move_data(self, frame: int) -> None:
        """Point the data page's entry at `frame`, by a store of the host."""
        self._memory.write_u64(self._l1 + 8, frame | _ENTRY)
        self.vcpu.flush_tlb()
