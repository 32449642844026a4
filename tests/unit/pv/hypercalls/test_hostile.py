"""Hypercalls with arbitrary numbers and arguments: an answer or a crash of the guest, nothing
else.

Nothing outside the guest's memory changes, and the CPU gets no descriptor that would let the guest
out of ring 3.
"""

from __future__ import annotations

import struct
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmxen.errors import GuestCrash
from kvmxen.kvm.layout import PAGE_SHIFT, PAGE_SIZE, XENHEAP_FRAMES
from kvmxen.pv.hypercalls.segments import MAX_GDT_FRAMES, MAX_LDT_ENTRIES
from kvmxen.pv.hypercalls.table import TABLE, hypercall
from kvmxen.pv.shim.abi import constants
from kvmxen.xen.abi import x86
from kvmxen.xen.abi.xen import DOMID_SELF, EVTCHN_2L_NR_CHANNELS, Hypercall
from kvmxen.xen.events import Status
from tests.unit import forged
from tests.unit.forged import BASE, FREE_PFN, NR_PAGES, PRESENT, SCRATCH, TOP, USER, WRITE, Domain

_C = constants()
LAYOUT = Domain(2).layout
MASK64 = (1 << 64) - 1
XEN_SLOTS = [*Domain(2).machine.image.slots.kernel, *[0] * 12]
EDGES = [
    edge + delta & MASK64
    for edge in (0, 1 << 12, 1 << 16, 1 << 20, 1 << 31, 1 << 32, 1 << 47, 1 << 63, 1 << 64,
                 TOP, BASE, BASE + (NR_PAGES << PAGE_SHIFT), _C["SHIM_VA"], _C["M2P_VA"])
    for delta in (-8, -1, 0, 1, 8)
]  # fmt: skip
SHARED = range(LAYOUT.xenheap_mfn, LAYOUT.xenheap_mfn + XENHEAP_FRAMES)
# Frames of every kind: tables, free ones, the shim's, the xenheap's, the last, none.
FRAMES = [
    *(LAYOUT.mfn(pfn) for pfn in (0, 1, 2, 6, forged.SCRATCH_PFN, FREE_PFN, NR_PAGES - 1)),
    0, 1, 2, LAYOUT.xenheap_mfn, LAYOUT.xenheap_mfn + 1, LAYOUT.m2p_gpa >> PAGE_SHIFT,
    LAYOUT.max_mfn, LAYOUT.max_mfn - 1,
]  # fmt: skip

frames = st.sampled_from(FRAMES) | st.integers(0, LAYOUT.max_mfn)
pointers = st.builds(
    lambda base, word: base + word * 8 & MASK64,
    st.sampled_from([SCRATCH, TOP, TOP + 0xF80, BASE]),
    st.integers(0, 511),
)
entries = st.builds(
    lambda mfn, flags: mfn << PAGE_SHIFT | flags,
    frames,
    st.sampled_from([0, PRESENT, PRESENT | WRITE, PRESENT | WRITE | USER, 0x83, 1 << 63 | 7]),
)
entry_addresses = st.builds(
    lambda mfn, slot, kind: mfn << PAGE_SHIFT | slot * 8 | kind,
    frames,
    st.sampled_from([0, 1, 255, 256, 257, 258, 271, 272, 273, 511]) | st.integers(0, 511),
    st.integers(0, 3),
)
words = (
    st.integers(0, 40)
    | pointers
    | frames
    | entries
    | entry_addresses
    | st.sampled_from([*EDGES, forged.MEMORY, 0x7FF0, 0x7FF0 << 16])
    | st.integers(0, MASK64)
)
numbers = st.sampled_from(list(TABLE)) | st.integers(0, 70) | words
calls = st.tuples(numbers, st.lists(words, min_size=6, max_size=6))
scripts = st.lists(calls, min_size=1, max_size=12)


@settings(max_examples=200, deadline=None)
@given(scratch=st.lists(words, max_size=64), script=scripts)
def test_a_guest_only_gets_answers(scratch: list[int], script: list[tuple[int, list[int]]]) -> None:
    check(scratch, script)


@settings(max_examples=200, deadline=None)
@given(
    words=st.lists(words, min_size=24, max_size=24),
    call=st.sampled_from(list(TABLE)),
    first=st.integers(0, 32),
    halves=st.lists(st.integers(0, 1 << 32), max_size=6),
)
def test_a_guest_only_gets_answers_for_its_structures(
    words: list[int], call: int, first: int, halves: list[int]
) -> None:
    # Most commands take a structure in memory.
    body = array("Q", words).tobytes()
    body = struct.pack(f"<{len(halves)}I", *(half & 0xFFFFFFFF for half in halves)) + body
    for arguments in ([first, SCRATCH], [SCRATCH, 1, 0, 0x7FF0], [first, 1, SCRATCH],
                      [first, SCRATCH, 1], [SCRATCH, 2]):  # fmt: skip
        check(array("Q", body[: len(body) // 8 * 8]).tolist(), [(call, arguments)])


@pytest.mark.parametrize("call", sorted(TABLE))
@pytest.mark.parametrize("edge", [0, 1, SCRATCH, TOP + 0xFFC, MASK64])
def test_edges(call: int, edge: int) -> None:
    script = []
    for command in range(34):
        script += [(call, [command, *[edge] * 5]), (call, [edge, *[command] * 5])]
    check([edge] * 32, script)


# Without those that turn a frame into an L4, with the shim's entries in it, and copies into a
# frame that was a table before.
plain_operations = st.sampled_from([0, 1, 2, 4, 6, 7, 8, 10, 12, 13, 16, 18, 19])


@settings(max_examples=100, deadline=None)
@given(
    updates=st.lists(st.tuples(entry_addresses, entries | words), max_size=32),
    operations=st.lists(st.tuples(plain_operations, frames | words, words), max_size=32),
)
def test_no_table_gets_a_frame_that_is_not_the_guests(
    updates: list[tuple[int, int]], operations: list[tuple[int, int, int]]
) -> None:
    domain = Domain(2)
    domain.put(b"".join(struct.pack("<QQ", *update) for update in updates))
    domain.put(b"".join(struct.pack("<QQQ", *operation) for operation in operations), 2048)
    for index in range(len(updates)):
        domain.hypercall(Hypercall.mmu_update, SCRATCH + index * 16, 1, 0, DOMID_SELF)
    for index in range(len(operations)):
        domain.hypercall(Hypercall.mmuext_op, SCRATCH + 2048 + index * 24, 1, 0, DOMID_SELF)
    for pfn in range(forged.NR_TABLES):
        table = array("Q", domain.memory.read(domain.gpa(pfn), PAGE_SIZE))
        if pfn == 0:
            assert table[256:272].tolist() == XEN_SLOTS
            del table[256:272]
        for entry in filter(PRESENT.__and__, table):
            mfn = (entry & x86.PTE_FRAME) >> PAGE_SHIFT
            assert domain.tables.owns(mfn) or mfn in SHARED
            assert entry & USER
            assert not entry & 0x80
    domain.machine.close()


def check(scratch: list[int], script: list[tuple[int, list[int]]]) -> None:
    domain = Domain(2)
    cpu = domain.cpu
    domain.put(array("Q", scratch).tobytes())
    cpu.vcpu.rsp = SCRATCH
    before = foreign_memory(domain)
    try:
        for number, arguments in script:
            arguments = [*arguments, *(0,) * (6 - len(arguments))]
            result = hypercall(cpu, number, arguments)
            if result is None:
                assert number == Hypercall.iret
            else:
                assert -(1 << 12) < result < 1 << 64
                cpu.vcpu.rax = result & MASK64
    except GuestCrash:
        pass
    assert foreign_memory(domain) == before
    ipis = {
        port.number: _C["PORT_IPI"] + port.vcpu
        for port in domain.machine.events.ports()
        if port.status is Status.IPI
    }
    kinds = domain.memory.read(domain.machine.image.domain.ports_gpa, EVTCHN_2L_NR_CHANNELS)
    assert {port: kind for port, kind in enumerate(kinds) if kind} == ipis
    for cpu in domain.cpus:
        gdt = domain.memory.read(cpu.gdt_gpa, MAX_GDT_FRAMES * PAGE_SIZE)
        ldt = domain.memory.read(cpu.ldt_gpa, MAX_LDT_ENTRIES * 8)
        assert all(map(harmless, set(array("Q", gdt + ldt))))
    domain.machine.close()


def foreign_memory(domain: Domain) -> bytes:
    """All memory that the guest must not change, except its vCPUs' state and IPIs, the copies
    of their descriptor tables, and the gate's work lists."""
    memory, layout = domain.memory, domain.layout
    shim = bytearray(memory.read(0, layout.xenheap_gpa))
    ports = domain.machine.image.domain.ports_gpa
    shim[ports : ports + EVTCHN_2L_NR_CHANNELS] = bytes(EVTCHN_2L_NR_CHANNELS)
    for cpu in domain.cpus:
        for start, size in (
            (cpu.gdt_gpa, MAX_GDT_FRAMES * PAGE_SIZE),
            (cpu.gdt_gpa + _C["SEL_LDT"], 16),
            (cpu.ldt_gpa, MAX_LDT_ENTRIES * 8),
            (cpu.gdt_gpa + _C["VCPU_WORK"] - _C["VCPU_GDT"], _C["VCPU_WORK_END"] - _C["VCPU_WORK"]),
            (cpu.gdt_gpa + _C["VCPU_STATE"] - _C["VCPU_GDT"], PAGE_SIZE),
        ):
            shim[start : start + size] = bytes(size)
    own = layout.m2p_gpa + layout.ram[0].mfn * 8
    return bytes(shim) + memory.read(layout.m2p_gpa, own - layout.m2p_gpa)


def harmless(descriptor: int) -> bool:
    """Whether the descriptor gives the CPU in ring 3 no more than a segment of ring 3."""
    if not descriptor >> 47 & 1:
        return True
    if not descriptor >> 44 & 1:
        return descriptor >> 40 & 0x1F == 0
    return descriptor >> 45 & 3 == 3
