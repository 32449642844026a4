"""A vCPU's first state: paging on, in the gate's ring 0, interrupts through x2APIC."""

from __future__ import annotations

from kvmxen.kvm.structs import Segment, Sregs
from kvmxen.kvm.vcpu import VcpuFd
from kvmxen.pv.shim.abi import constants
from kvmxen.pv.shim.image import Placement, ShimImage
from kvmxen.xen.abi import x86, xen

_C = constants()

CR0 = x86.CR0_PE | x86.CR0_MP | x86.CR0_ET | x86.CR0_NE | x86.CR0_WP | x86.CR0_PG
# No SMEP, SMAP, PGE, PCIDE, FSGSBASE.
CR4 = x86.CR4_PAE | x86.CR4_OSFXSR | x86.CR4_OSXMMEXCPT | x86.CR4_OSXSAVE
EFER = x86.EFER_SCE | x86.EFER_LME | x86.EFER_LMA | x86.EFER_NXE
# The flags that SYSCALL must clear for the gate. SYSENTER clears IF only.
_SYSCALL_MASK = (
    x86.EFL_AC
    | x86.EFL_NT
    | x86.EFL_IOPL
    | x86.EFL_DF
    | x86.EFL_IF
    | x86.EFL_TF
    | x86.EFL_ARITHMETIC
)

_APIC_ENABLED_X2 = 0xFEE00C00
_APIC_BSP = 0x100
_SVR_ENABLE = 0x100
_LVT_TSC_DEADLINE = 2 << 17


def prepare(
    fd: VcpuFd,
    image: ShimImage,
    placement: Placement,
    *,
    part_gpa: int,
    cr3: int,
    pat: int,
    xcr0: int,
) -> None:
    """Set every register except the general ones; CPUID must have been set before.

    `part_gpa` is the vCPU's part of the shim, `cr3` the gpa of the first L4 table, `pat` and
    `xcr0` are register values; if `xcr0` is 0, it is not set in KVM.
    """
    sregs = fd.get_sregs()
    part = _C["SHIM_VA"] + part_gpa
    sregs.cr0, sregs.cr3, sregs.efer = CR0, cr3, EFER
    sregs.cr4 = CR4 if xcr0 else CR4 & ~x86.CR4_OSXSAVE
    _load_ring0(sregs)
    for name in ("ds", "es", "fs", "gs"):
        setattr(sregs, name, Segment(unusable=1))
    sregs.tr = Segment(
        base=part + _C["VCPU_TSS"], limit=103, selector=_C["SEL_TSS"], type=11, present=1
    )
    sregs.ldt = Segment(unusable=1)
    sregs.gdt.base, sregs.gdt.limit = part + _C["VCPU_GDT"], 0xFFFF
    sregs.idt.base, sregs.idt.limit = image.idt_va, 0xFFF
    fd.set_msr(x86.MSR_APIC_BASE, _APIC_ENABLED_X2 | (0 if fd.index else _APIC_BSP))
    sregs.apic_base = fd.get_msr(x86.MSR_APIC_BASE)
    fd.set_sregs(sregs)
    fd.set_runnable()
    if xcr0:
        fd.set_xcr0(xcr0)
    for msr, value in {
        x86.MSR_X2APIC_SVR: _SVR_ENABLE | _C["VECTOR_SPURIOUS"],
        x86.MSR_X2APIC_LVT_TIMER: _LVT_TSC_DEADLINE | _C["VECTOR_TIMER"],
        x86.MSR_PAT: pat,
        x86.MSR_STAR: _C["SEL_RING0_CS"] << 32 | xen.FLAT_RING3_CS32 << 48,
        x86.MSR_LSTAR: part + _C["VCPU_SYSCALL_PAGE"] + _C["SYSCALL_ENTRY"],
        x86.MSR_CSTAR: _C["SHIM_VA"] + _C["GATE_SYSCALL32"],
        x86.MSR_SYSENTER_CS: _C["SEL_RING0_CS"],
        # Below %ss and %rsp of the dispatcher's frame.
        x86.MSR_SYSENTER_ESP: part + _C["VCPU_FRAME_END"] - 16,
        x86.MSR_SYSENTER_EIP: _C["SHIM_VA"] + _C["GATE_SYSENTER"],
        # A dispatcher in ring 3 could not set IF again.
        x86.MSR_SYSCALL_MASK: _SYSCALL_MASK & ~(x86.EFL_IF if placement is Placement.RING3 else 0),
    }.items():
        fd.set_msr(msr, value)


def enter_ring0(fd: VcpuFd) -> None:
    """Move a vCPU that KVM returned in ring 3 to the gate's ring 0."""
    sregs = fd.get_sregs()
    _load_ring0(sregs)
    fd.set_sregs(sregs)


def _load_ring0(sregs: Sregs) -> None:
    sregs.cs = _flat(_C["SEL_RING0_CS"], kind=11, dpl=0, code=True)
    sregs.ss = _flat(_C["SEL_RING0_SS"], kind=3, dpl=0, code=False)


def _flat(selector: int, *, kind: int, dpl: int, code: bool) -> Segment:
    return Segment(
        base=0,
        limit=0xFFFFFFFF,
        selector=selector,
        type=kind,
        present=1,
        dpl=dpl,
        s=1,
        g=1,
        l=code,
        db=not code,
    )


def load_ldt(fd: VcpuFd, image: ShimImage, entries: int) -> None:
    """Load the LDT copied into the shim, `entries` entries long; 0 for none."""
    sregs: Sregs = fd.get_sregs()
    if entries:
        base = _C["SHIM_VA"] + image.vcpu_gpa(fd.index) + _C["VCPU_LDT"]
        image.write_system_descriptor(fd.index, "SEL_LDT", base, entries * 8 - 1, 0x82)
        sregs.ldt = Segment(
            base=base, limit=entries * 8 - 1, selector=_C["SEL_LDT"], type=2, present=1
        )
    else:
        sregs.ldt = Segment(unusable=1)
    fd.set_sregs(sregs)
