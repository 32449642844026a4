"""The shim's memory: gates, IDT, page tables, and a part for each vCPU, all below the xenheap.

The guest's L4 tables reach it through four entries. Two show the machine-to-physical table,
read-only; one the shim's own memory; one all machine memory, for the gate's touches and the
dispatcher. Their exact contents depend on the dispatcher's `Placement`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from kvmxen.kvm.layout import PAGE_SIZE, SUPERPAGE, XENHEAP_FRAMES, Layout
from kvmxen.kvm.memory import GuestMemory
from kvmxen.pv.shim.abi import code, constants
from kvmxen.pv.shim.shared import SharedDomain
from kvmxen.xen.abi import x86, xen

_C = constants()

_KERNEL = x86.PTE_PRESENT | x86.PTE_WRITE | x86.PTE_ACCESSED | x86.PTE_DIRTY
_READ_ONLY = _KERNEL & ~x86.PTE_WRITE

_GIB = 1 << 30
_FLAGS = x86.EFL_IF | x86.EFL_FIXED


class Placement(Enum):
    """Where the dispatcher runs: nowhere, so that every trap is an exit; in ring 0; or in the
    guest kernel's ring 3, hidden from its user code."""

    EXITS = "exits"
    RING0 = "ring 0"
    RING3 = "ring 3"


def _stack(stub: int) -> int:
    """The IST that enters a stub."""
    if stub >= _C["STUB_EVENT"]:
        return 2
    return 3 if stub == x86.TRAP_DEBUG else 1


# (gpa, flags) of pages of the shim.
_Pages = Callable[[], Iterator[tuple[int, int]]]


@dataclass(frozen=True)
class Slots:
    """The values of L4 slots 256 to 259 in a table that is pinned and not in use, in the guest
    kernel's, in its user code's, and in one that is both."""

    pinned: tuple[int, ...]
    kernel: tuple[int, ...]
    user: tuple[int, ...]
    shared: tuple[int, ...]


class ShimImage:
    """The shim of a domain with `layout` in its `memory`, which `create` puts there: where its
    parts are, and the L4 entries, `slots`, by which a guest reaches it. `domain` is the state that
    its dispatcher reads."""

    def __init__(self, memory: GuestMemory, layout: Layout) -> None:
        self._memory = memory
        self._layout = layout
        self.domain = SharedDomain(memory, _C["SHIM_DOMAIN"])
        self._next_frame = _C["SHIM_TABLES"]
        self._first_vcpu = layout.xenheap_gpa - layout.vcpus * _C["VCPU_SIZE"]
        self.slots = Slots(*self.domain.slots)

    def create(self) -> None:
        """Write the shim, for EXITS at first, into memory that is all zero."""
        layout = self._layout
        self._memory.write(0, code())
        self._write_idt()
        for index in range(layout.vcpus):
            self._write_vcpu(index)
        self._physmap = self._map_large(0, layout.end, _KERNEL | x86.PTE_NX)
        self._m2p = self._map_large(
            layout.m2p_gpa, layout.m2p_bytes, (_KERNEL | x86.PTE_USER | x86.PTE_NX) & ~x86.PTE_WRITE
        )
        exits = self._map_shim("EXITS_GATE", "SYSCALL_TRAP", self._nothing)
        self.slots = self._slots(exits, exits, self._physmap)

    def place(
        self, placement: Placement, *, xen_version: int, tsc_khz: int, sets_fs_base: bool
    ) -> None:
        """Put the dispatcher at `placement`, before any vCPU runs. `sets_fs_base` says whether
        ring 3 can set its FS base."""
        if placement is Placement.RING0:
            inside = self._map_shim("RING0_GATE", "SYSCALL_PAGE", self._nothing)
            self.slots = self._slots(inside, inside, self._physmap)
            for index in range(self._layout.vcpus):
                self._write_tss(index, "VCPU_FRAME_END", "VCPU_FRAME_END")
        elif placement is Placement.RING3:
            exits = self.slots.user[2]
            kernel = self._map_shim("KERNEL_GATE", "SYSCALL_PAGE", self._kernels)
            user = self._map_shim("USER_GATE", "SYSCALL_TRAP", self._nothing)
            self.slots = self._slots(kernel, user, self._map_kernels_memory(), exits)
        self.domain.describe(
            self._layout,
            self.slots,
            in_ring3=placement is Placement.RING3,
            xen_version=xen_version,
            tsc_khz=tsc_khz,
            sets_fs_base=sets_fs_base,
        )

    def _slots(self, kernel: int, user: int, physmap: int, shared: int = 0) -> Slots:
        return Slots(
            pinned=(self._m2p, self._m2p, user, self._physmap),
            kernel=(self._m2p, self._m2p, kernel, physmap),
            user=(0, 0, user, self._physmap),
            shared=(self._m2p, self._m2p, shared or user, self._physmap),
        )

    def vcpu_gpa(self, index: int) -> int:
        """The gpa of vCPU `index`'s part; its virtual address is SHIM_VA more."""
        return self._first_vcpu + index * _C["VCPU_SIZE"]

    @property
    def idt_va(self) -> int:
        """The virtual address of the IDT, 256 gates."""
        return _C["SHIM_VA"] + _C["SHIM_IDT"]

    def _write_idt(self) -> None:
        stubs = {vector: vector for vector in range(32)}
        stubs[_C["VECTOR_EVENT"]] = _C["STUB_EVENT"]
        stubs[_C["VECTOR_TIMER"]] = _C["STUB_TIMER"]
        stubs[_C["VECTOR_SPURIOUS"]] = _C["STUB_SPURIOUS"]
        for vector, stub in stubs.items():
            target = _C["SHIM_VA"] + _C["GATE_STUBS"] + stub * _C["STUB_SIZE"]
            # Ring 3 may raise only these two by instruction: int3 and into.
            dpl = 3 if vector in (x86.TRAP_BREAKPOINT, x86.TRAP_OVERFLOW) else 0
            entry = struct.pack(
                "<HHBBHII",
                target & 0xFFFF,
                _C["SEL_RING0_CS"],
                _stack(stub),
                0x8E | dpl << 5,
                target >> 16 & 0xFFFF,
                target >> 32,
                0,
            )
            self._memory.write(_C["SHIM_IDT"] + vector * 16, entry)

    def _write_tss(self, index: int, traps: str, interrupts: str) -> None:
        """Write a TSS. IST 1 is the stack of traps, IST 2 of interrupts, IST 3 of debug exceptions;
        `traps` and `interrupts` name the ends of the first two."""
        part = self.vcpu_gpa(index)
        ends = traps, interrupts, "VCPU_DEBUG_STACK_END"
        ists = [_C["SHIM_VA"] + part + _C[name] for name in ends]
        # The I/O bitmap lies beyond the limit, so no port is allowed.
        tss = struct.pack("<I3QQ7QQHH", 0, ists[0], 0, 0, 0, *ists, *(0,) * 4, 0, 0, 104)
        self._memory.write(part + _C["VCPU_TSS"], tss)

    def _write_vcpu(self, index: int) -> None:
        part = self.vcpu_gpa(index)
        va = _C["SHIM_VA"] + part
        self._write_tss(index, "VCPU_TRAP_STACK_END", "VCPU_INTERRUPT_STACK_END")
        # The kernel and user gates enter the dispatcher through these.
        for name, entry in (
            ("VCPU_TRAP_FRAME", "TRAP_ENTRY"),
            ("VCPU_TRAP_ERROR_FRAME", "TRAP_ERROR_ENTRY"),
            ("VCPU_BREAKPOINT_FRAME", "BREAKPOINT_ENTRY"),
            ("VCPU_PAGE_FAULT_FRAME", "PAGE_FAULT_ENTRY"),
        ):
            rip, rsp = va + _C["VCPU_SYSCALL_PAGE"] + _C[entry], va + _C["VCPU_FRAME_END"]
            frame = rip, xen.FLAT_RING3_CS64, _FLAGS, rsp, xen.FLAT_RING3_SS
            self._memory.write(part + _C[name], struct.pack("<5Q", *frame))
        gdt = part + _C["VCPU_GDT"]
        for selector, descriptor in {
            _C["SEL_RING0_CS"]: 0x00AF9B000000FFFF,
            _C["SEL_RING0_SS"]: 0x00CF93000000FFFF,
            xen.FLAT_RING3_CS32: 0x00CFFB000000FFFF,
            xen.FLAT_RING3_SS: 0x00CFF3000000FFFF,
            xen.FLAT_RING3_CS64: 0x00AFFB000000FFFF,
        }.items():
            self._memory.write_u64(gdt + (selector & ~7), descriptor)
        self.write_system_descriptor(index, "SEL_TSS", va + _C["VCPU_TSS"], 103, 0x8B)

    def write_system_descriptor(
        self, index: int, selector: str, base: int, limit: int, access: int
    ) -> None:
        """Store a 16-byte TSS or LDT descriptor of vCPU `index`; `limit` in bytes - 1."""
        low = (
            limit & 0xFFFF
            | (base & 0xFFFFFF) << 16
            | access << 40
            | (limit >> 16 & 0xF) << 48
            | (base >> 24 & 0xFF) << 56
        )
        where = self.vcpu_gpa(index) + _C["VCPU_GDT"] + _C[selector]
        self._memory.write(where, struct.pack("<QQ", low, base >> 32))

    def new_frame(self) -> int:
        """The gpa of a new, zeroed frame of the shim."""
        frame = self._next_frame
        if frame >= self._first_vcpu:
            raise AssertionError("the shim overflows its frames")
        self._next_frame += PAGE_SIZE
        return frame

    def _map_shim(self, gate: str, syscall: str, kernels: _Pages) -> int:
        """Map the shim's memory for ring 0, the syscall pages for every ring (for ring 0 only if
        the dispatcher is there), and `kernels` for the guest's kernel; returns an L4 entry."""
        size = self._layout.xenheap_gpa
        l3, l2 = self.new_frame(), self.new_frame()
        first = self._next_frame
        self._memory.write_u64(l3, l2 | _KERNEL | x86.PTE_USER)
        for start in range(0, size, SUPERPAGE):
            l1 = self.new_frame()
            self._memory.write_u64(l2 + start // SUPERPAGE * 8, l1 | _KERNEL | x86.PTE_USER)
            count = min(512, (size - start) // PAGE_SIZE)
            self._memory.fill_u64(l1, count, start | _KERNEL, PAGE_SIZE)

        def put(gpa: int, value: int) -> None:
            # The L1 tables are contiguous.
            self._memory.write_u64(first + gpa // PAGE_SIZE * 8, value)

        for gpa in range(0, _C["SHIM_IDT"], PAGE_SIZE):
            put(gpa, gpa | _READ_ONLY)
        put(0, _C[gate] | _READ_ONLY)
        seen_by_all = 0 if gate == "RING0_GATE" else x86.PTE_USER
        for index in range(self._layout.vcpus):
            page = self.vcpu_gpa(index) + _C["VCPU_SYSCALL_PAGE"]
            put(page, _C[syscall] | _READ_ONLY | seen_by_all)
        for gpa, flags in kernels():
            put(gpa, gpa | flags)
        return l3 | _KERNEL | x86.PTE_USER

    @staticmethod
    def _nothing() -> Iterator[tuple[int, int]]:
        yield from ()

    def _kernels(self) -> Iterator[tuple[int, int]]:
        """The pages of the shim that a dispatcher in the guest kernel's ring 3 uses."""
        read, write = _READ_ONLY | x86.PTE_USER, _KERNEL | x86.PTE_USER
        for offset in range(0, _C["DISPATCHER_SIZE"], PAGE_SIZE):
            yield _C["DISPATCHER"] + offset, read
        for gpa in range(_C["SHIM_DOMAIN"], _C["SHIM_TABLES"], PAGE_SIZE):
            yield gpa, read
        for index in range(self._layout.vcpus):
            part = self.vcpu_gpa(index)
            yield part + _C["VCPU_TRAP_STACK_END"] & -PAGE_SIZE, write
            for offset in range(_C["VCPU_GDT"], _C["VCPU_LDT"], PAGE_SIZE):
                yield part + offset, read
            for offset in range(_C["VCPU_STATE"], _C["VCPU_FRAME_END"], PAGE_SIZE):
                yield part + offset, write

    def _map_kernels_memory(self) -> int:
        """Map machine memory without the shim's for the guest kernel's ring 3; an L4 entry."""
        layout = self._layout
        flags = _KERNEL | x86.PTE_USER | x86.PTE_NX
        entry = self._map_large(0, layout.end, flags)
        l2 = self._memory.read_u64(entry & -PAGE_SIZE) & -PAGE_SIZE
        for start in range(0, layout.m2p_gpa, SUPERPAGE):
            l1 = self.new_frame()
            self._memory.write_u64(l2 + start // SUPERPAGE * 8, l1 | _KERNEL | x86.PTE_USER)
            end = min(start + SUPERPAGE, layout.xenheap_gpa + XENHEAP_FRAMES * PAGE_SIZE)
            for gpa in range(max(start, layout.xenheap_gpa), end, PAGE_SIZE):
                self._memory.write_u64(l1 + (gpa - start) // PAGE_SIZE * 8, gpa | flags)
        return entry

    def _map_large(self, gpa: int, size: int, flags: int) -> int:
        l3 = self.new_frame()
        upper = (flags | x86.PTE_WRITE) & ~x86.PTE_NX
        for start in range(0, size, _GIB):
            l2 = self.new_frame()
            self._memory.write_u64(l3 + start // _GIB * 8, l2 | upper)
            count = min(512, (size - start + SUPERPAGE - 1) // SUPERPAGE)
            self._memory.fill_u64(l2, count, gpa + start | flags | x86.PTE_LARGE, SUPERPAGE)
        return l3 | upper
