"""Kernels from hell: whatever a file asks for, it is loaded or refused with one sentence.

Numbers come from the edges of the allowed ranges, which random ones would hardly ever hit.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kvmxen.errors import KvmxenError
from kvmxen.kvm.layout import PAGE_SIZE
from kvmxen.kvm.memory import GuestMemory
from kvmxen.loader.elf import ElfKernel
from kvmxen.loader.elf_reader import read
from kvmxen.loader.facts import Facts
from kvmxen.loader.frames import fill_m2p
from kvmxen.loader.pv import build
from kvmxen.pv.shim.plan import plan
from kvmxen.xen.abi.elfnote import NoteType as N
from tests.unit.loader.images import ENTRY, INIT_P2M, NOTES, START, VIRT_BASE, Load, elf, u64

MEMORY = 24 << 20
NUMBERS = [N.ENTRY, N.HYPERCALL_PAGE, N.VIRT_BASE, N.PADDR_OFFSET, N.INIT_P2M, N.MOD_START_PFN]

places = st.sampled_from(
    [
        0,
        START,
        1 << 30,
        1 << 32,
        1 << 47,
        1 << 48,
        1 << 63,
        INIT_P2M,
        0xFFFF_8000_0000_0000,
        0xFFFF_8800_0000_0000,
        VIRT_BASE,
        VIRT_BASE + START,
        ENTRY,
        1 << 64,
    ]
)
nudges = st.sampled_from([0, 1, 8, PAGE_SIZE, 2 << 20, MEMORY, -1, -PAGE_SIZE, -(2 << 20)])
addresses = st.builds(lambda place, nudge: (place + nudge) % (1 << 64), places, nudges)
sizes = st.one_of(st.none(), st.integers(0, 1 << 20), addresses)
loads = st.builds(
    Load,
    paddr=st.one_of(st.just(START), addresses),
    data=st.builds(bytes, st.integers(0, 3 * PAGE_SIZE)),
    memsz=sizes,
    filesz=st.one_of(st.none(), addresses),
    offset=st.one_of(st.none(), addresses),
    flags=st.integers(0, 7),
)
mild_loads = st.builds(
    lambda at, data: Load(START + at * PAGE_SIZE, data),
    st.integers(0, 64),
    st.builds(bytes, st.integers(PAGE_SIZE, 3 * PAGE_SIZE)),
)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(st.sampled_from(NUMBERS), st.one_of(st.none(), addresses), max_size=3),
    st.lists(st.one_of(mild_loads, loads), min_size=1, max_size=3),
    st.integers(0, 30 << 20),
)
def test_numbers(changes: dict[N, int | None], loads: list[Load], ramdisk: int) -> None:
    notes = dict(NOTES)
    for kind, value in changes.items():
        notes.pop(kind, None)
        if value is not None:
            notes[kind] = u64(value)
    layout = plan(MEMORY, 1)
    memory = GuestMemory(layout.end)
    try:
        image = elf(notes, loads)
        kernel = ElfKernel.parse(image)
        # As a later boot finds it.
        assert ElfKernel.of(image, Facts.decode(read(memoryview(image)).encode())) == kernel
        start = build(memory, layout, kernel, bytes(ramdisk), "", console_port=2, store_port=1)
    except KvmxenError:
        return
    assert layout.pfn(start.cr3 // PAGE_SIZE) is not None
    # The guest can have nothing written below RAM but the table that Xen has there.
    untouched = GuestMemory(layout.end)
    fill_m2p(untouched, layout)
    below = layout.ram[0].mfn * PAGE_SIZE
    assert memory.read(0, below) == untouched.read(0, below)
