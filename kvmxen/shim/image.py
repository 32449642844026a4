"""The shim's memory: gate, IDT, page tables, and a part for each vCPU, all below the xenheap.

The guest's L4 tables reach it through three entries (`L4_ENTRIES`): the shim's own part,
supervisor-only but for the syscall page; all machine memory, supervisor-only, for the gate's
touches; and the machine-to-physical table, read-only.
"""

from __future__ import annotations

import struct

from kvmxen.layout import PAGE_SIZE, SHIM_VCPU_FRAMES, SUPERPAGE, Layout
from kvmxen.memory import GuestMemory
from kvmxen.shim.abi import constants, gate

_C = constants()
_IDT_GPA = 2 * PAGE_SIZE
_TABLES_GPA = 3 * PAGE_SIZE

_PRESENT, _WRITE, _USER, _ACCESSED, _DIRTY, _LARGE = 0x1, 0x2, 0x4, 0x20, 0x40, 0x80
_KERNEL = _PRESENT | _WRITE | _ACCESSED | _DIRTY
_NX = 1 << 63

_GIB = 1 << 30


class ShimImage:
    """Writes the shim for `layout` into `memory`; then knows where its parts are."""

    def __init__(self, memory: GuestMemory, layout: Layout) -> None:
        if SHIM_VCPU_FRAMES * PAGE_SIZE != _C["VCPU_SIZE"]:
            raise AssertionError("layout and shim/abi.h disagree on a vCPU's part")
        self._memory = memory
        self._next_table = _TABLES_GPA
        self._first_vcpu = layout.xenheap_gpa - layout.vcpus * _C["VCPU_SIZE"]
        memory.write(0, gate())
        self._write_idt()
        self.l4_entries = {
            _slot("SHIM_VA"): self._map_shim(layout.xenheap_gpa),
            _slot("PHYSMAP_VA"): self._map_large(0, layout.end, _KERNEL | _NX),
        }
        m2p = self._map_large(layout.m2p_gpa, layout.m2p_bytes, (_KERNEL | _USER | _NX) & ~_WRITE)
        self.l4_entries[_slot("XEN_M2P_VA")] = self.l4_entries[_slot("M2P_VA")] = m2p
        if self._next_table > self._first_vcpu:
            raise AssertionError("the shim's page tables overflow their frames")
        for index in range(layout.vcpus):
            self._write_vcpu(index)

    def vcpu_gpa(self, index: int) -> int:
        """The gpa of vCPU `index`'s part; its virtual address is SHIM_VA more."""
        return self._first_vcpu + index * _C["VCPU_SIZE"]

    @property
    def idt_va(self) -> int:
        """The virtual address of the IDT, 256 gates."""
        return _C["SHIM_VA"] + _IDT_GPA

    def _write_idt(self) -> None:
        stubs = {vector: vector for vector in range(32)}
        stubs[_C["VECTOR_EVENT"]] = _C["STUB_EVENT"]
        stubs[_C["VECTOR_TIMER"]] = _C["STUB_TIMER"]
        stubs[_C["VECTOR_SPURIOUS"]] = _C["STUB_SPURIOUS"]
        for vector, stub in stubs.items():
            target = _C["SHIM_VA"] + _C["GATE_STUBS"] + stub * _C["STUB_SIZE"]
            # int3 and into are the two that ring 3 may raise by instruction.
            dpl = 3 if vector in (3, 4) else 0
            entry = struct.pack(
                "<HHBBHII",
                target & 0xFFFF,
                _C["SEL_RING0_CS"],
                1,
                0x8E | dpl << 5,
                target >> 16 & 0xFFFF,
                target >> 32,
                0,
            )
            self._memory.write(_IDT_GPA + vector * 16, entry)

    def _write_vcpu(self, index: int) -> None:
        part = self.vcpu_gpa(index)
        va = _C["SHIM_VA"] + part
        ist1 = va + _C["VCPU_TRAP_STACK_END"]
        # rsp0 and IST 1 are the trap stack; the I/O bitmap lies beyond the limit: no ports.
        tss = struct.pack("<I3QQ7QQHH", 0, ist1, 0, 0, 0, ist1, *(0,) * 6, 0, 0, 104)
        self._memory.write(part + _C["VCPU_TSS"], tss)
        gdt = part + _C["VCPU_GDT"]
        for selector, descriptor in {
            "SEL_RING0_CS": 0x00AF9B000000FFFF,
            "SEL_RING0_SS": 0x00CF93000000FFFF,
            "SEL_RING3_CS32": 0x00CFFB000000FFFF,
            "SEL_RING3_SS": 0x00CFF3000000FFFF,
            "SEL_RING3_CS64": 0x00AFFB000000FFFF,
        }.items():
            self._memory.write_u64(gdt + (_C[selector] & ~7), descriptor)
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

    def _new_table(self) -> int:
        table = self._next_table
        self._next_table += PAGE_SIZE
        return table

    def _map_shim(self, size: int) -> int:
        l3, l2 = self._new_table(), self._new_table()
        self._memory.write_u64(l3, l2 | _KERNEL | _USER)
        for start in range(0, size, SUPERPAGE):
            l1 = self._new_table()
            self._memory.write_u64(l2 + start // SUPERPAGE * 8, l1 | _KERNEL | _USER)
            count = min(512, (size - start) // PAGE_SIZE)
            self._memory.fill_u64(l1, count, start | _KERNEL, PAGE_SIZE)
            if start == 0:
                self._memory.write_u64(l1, 0 | _KERNEL & ~_WRITE)
                self._memory.write_u64(l1 + 8, PAGE_SIZE | _USER | _KERNEL & ~_WRITE)
        return l3 | _KERNEL | _USER

    def _map_large(self, gpa: int, size: int, flags: int) -> int:
        l3 = self._new_table()
        upper = (flags | _WRITE) & ~_NX
        for start in range(0, size, _GIB):
            l2 = self._new_table()
            self._memory.write_u64(l3 + start // _GIB * 8, l2 | upper)
            count = min(512, (size - start + SUPERPAGE - 1) // SUPERPAGE)
            self._memory.fill_u64(l2, count, gpa + start | flags | _LARGE, SUPERPAGE)
        return l3 | upper


def _slot(name: str) -> int:
    return _C[name] >> 39 & 511
