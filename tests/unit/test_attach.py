"""Constructors attach: they leave a guest's memory as it is, and find what is there.

What a new domain needs in its memory is written by `create`, which a restored domain does without.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

import pytest

from kvmxen.backends.console import Console
from kvmxen.backends.loop import Loop
from kvmxen.backends.terminal import PlainTerminal
from kvmxen.backends.viewers import Viewers
from kvmxen.backends.xenstore import XenstoreBackend
from kvmxen.kvm.layout import PAGE_SHIFT, PAGE_SIZE
from kvmxen.kvm.memory import GuestMemory, Window
from kvmxen.pv.balloon import Balloon
from kvmxen.pv.cpu import Cpu
from kvmxen.pv.gate import PvVcpu
from kvmxen.pv.paging import PageTables
from kvmxen.pv.shim.abi import constants
from kvmxen.pv.shim.image import Placement, ShimImage
from kvmxen.ring.byte_ring import RingReader, RingWriter
from kvmxen.xen.abi import xen
from kvmxen.xen.abi.grant_table import GrantEntryV2
from kvmxen.xen.abi.io_console import OUT_PROD, OUTPUT
from kvmxen.xen.abi.xs_wire import Operation
from kvmxen.xen.events import EventChannels
from kvmxen.xen.grants import GrantTable
from kvmxen.xenstore import ring
from kvmxen.xenstore.connection import Connection
from kvmxen.xenstore.ring import RingTransport
from kvmxen.xenstore.store import Store
from tests.unit.backends.test_xenstore import PAGE
from tests.unit.backends.test_xenstore import Guest as XenstoreGuest
from tests.unit.forged import FREE_PFN, NR_PAGES, SCRATCH, USER_L4_PFN, Domain, va
from tests.unit.ring.built import PythonRing

C = constants()


class Unchanged:
    """Asserts at its end that nothing has changed in `memory`."""

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory

    def __enter__(self) -> None:
        self._before = self._memory.read(0, self._memory.size)

    def __exit__(self, *_: object) -> None:
        # Not by assert, which would show all of it.
        changed = [
            gpa
            for gpa in range(0, self._memory.size, PAGE_SIZE)
            if self._memory.read(gpa, PAGE_SIZE) != self._before[gpa : gpa + PAGE_SIZE]
        ]
        assert changed == []


@pytest.fixture
def domain() -> Iterator[Domain]:
    """A domain that has made hypercalls."""
    domain = Domain(2)
    vcpu = domain.cpu.vcpu
    vcpu.kernel_sp, vcpu.iopl = SCRATCH, 1
    domain.hypercall(xen.Hypercall.stack_switch, xen.FLAT_RING3_SS, va(FREE_PFN))
    domain.hypercall(xen.Hypercall.fpu_taskswitch, 1)
    pin = struct.pack("<I4xQQ", xen.MMUEXT_PIN_L4_TABLE, domain.layout.mfn(USER_L4_PFN), 0)
    assert domain.hypercall(xen.Hypercall.mmuext_op, domain.put(pin), 1, 0, xen.DOMID_SELF) == 0
    domain.machine.image.domain.set_port(9, C["PORT_IPI"] + 1)
    yield domain
    domain.machine.close()


@pytest.mark.parametrize("placement", Placement)
def test_the_shim(placement: Placement) -> None:
    domain = Domain(2)
    image, memory, layout = domain.machine.image, domain.memory, domain.layout
    image.place(placement, xen_version=1, tsc_khz=2, sets_fs_base=True)
    with Unchanged(memory):
        found = ShimImage(memory, layout)
    assert found.slots == image.slots
    assert any(found.slots.kernel)
    assert [found.vcpu_gpa(i) for i in range(2)] == [image.vcpu_gpa(i) for i in range(2)]
    domain.machine.close()


def test_page_tables(domain: Domain) -> None:
    layout, slots = domain.layout, domain.machine.image.slots
    frames = [layout.mfn(pfn) for pfn in range(NR_PAGES)]
    # The guest has written to the frame that the constructor once filled.
    domain.memory.write_u64(layout.absent_mfn << PAGE_SHIFT, 5)
    with Unchanged(domain.memory):
        found = PageTables(domain.memory, layout, slots, False)
    assert [found.is_table(mfn) for mfn in frames] == [domain.tables.is_table(m) for m in frames]
    assert found.level(layout.mfn(USER_L4_PFN)) == 4
    assert found.translate(domain.cr3, va(FREE_PFN)) == domain.gpa(FREE_PFN)
    # What is not the guest's is still the shim's.
    assert not found.owns(layout.xenheap_mfn)


def test_a_vcpus_state(domain: Domain) -> None:
    cpu, part = domain.cpu, domain.machine.image.vcpu_gpa(0)
    with Unchanged(domain.memory):
        found = PvVcpu(domain.memory, 0, -1, cpu.fd.run, part, C["VCPU_SIZE"])
    for name in ("kernel_cr3", "user_cr3", "kernel_sp", "iopl", "kernel_mode", "cr0", "singleshot"):
        assert getattr(found, name) == getattr(cpu.vcpu, name), name
    assert found.kernel_cr3 == domain.cr3
    assert found.kernel_sp == va(FREE_PFN)


def test_a_cpu(domain: Domain) -> None:
    with Unchanged(domain.memory):
        found = [Cpu(domain.machine, cpu.fd) for cpu in domain.cpus]
    assert found[0].kernel_sp == va(FREE_PFN)
    assert [cpu.vcpu.kernel_cr3 for cpu in found] == [cpu.vcpu.kernel_cr3 for cpu in domain.cpus]


def test_event_channels_and_the_balloon(domain: Domain) -> None:
    with Unchanged(domain.memory):
        EventChannels(
            domain.memory,
            domain.layout.shared_info_mfn << PAGE_SHIFT,
            2,
            lambda index: domain.cpus[index].info_gpa,
            lambda _: None,
        )
        Balloon(domain.memory, domain.tables, domain.layout)


def test_a_grant_table(domain: Domain) -> None:
    table, ref = domain.machine.grants, 300
    table.set_version(2)
    first = table.grow(3)[0] << PAGE_SHIFT
    entry = {"flags": 1, "domid": 0, "frame": domain.layout.mfn(FREE_PFN)}
    entry |= {"page_off": 0, "length": 0}
    domain.memory.write(first + ref * 16, GrantEntryV2.bits64.construct.build(entry))
    domain.memory.write(domain.gpa(FREE_PFN), b"granted")
    with Unchanged(domain.memory):
        found = GrantTable(domain.memory, domain.layout)
        found.resume(table.version, table.nr_frames)
    assert (found.version, found.nr_frames) == (2, 3)
    assert found.nr_status_frames == table.nr_status_frames
    assert found.read(ref, 0, 7) == b"granted"


@pytest.mark.parametrize(("version", "frames"), [(0, 1), (3, 1), (1, 0), (2, 1 << 32)])
def test_a_grant_table_that_cannot_be(domain: Domain, version: int, frames: int) -> None:
    table = domain.machine.grants
    with pytest.raises(ValueError, match="no grant table has"):
        table.resume(version, frames)
    assert (table.version, table.nr_frames) == (1, 1)


def test_a_ring_of_requests() -> None:
    """The backend's new end takes the requests again that the old one had not answered."""
    memory = GuestMemory(4 * PAGE_SIZE)
    window = Window(memory, [PAGE_SIZE])
    before = PythonRing(window, 8, 8)
    for index in range(3):
        memory.write_u64(PAGE_SIZE + 64 + index * 8, index)
    memory.write_u32(PAGE_SIZE, 3)
    assert [before.request(), before.request()] == [bytes(8), (1).to_bytes(8, "little")]
    before.respond(bytes(8))
    before.push_responses()
    with Unchanged(memory):
        found = PythonRing(window, 8, 8)
    assert found.pending == 2
    assert found.request() == (1).to_bytes(8, "little")


def test_a_ring_of_bytes() -> None:
    memory = GuestMemory(PAGE_SIZE)
    # A reader's ring of 64 bytes at 0 and a writer's at 64, with their indices from 128 on.
    memory.write(0, b"abcdef")
    for offset, value in ((128, 2), (132, 6), (136, 70), (140, 80)):
        memory.write_u32(offset, value)
    with Unchanged(memory):
        reader = RingReader(memory, 0, 64, 128, 132)
        writer = RingWriter(memory, 64, 64, 136, 140)
        assert (reader.pending, writer.free) == (4, 54)
    assert reader.read(9) == b"cdef"


def test_the_consoles_page() -> None:
    memory = GuestMemory(2 * PAGE)
    memory.write(PAGE + OUTPUT, b"said before")
    memory.write_u32(PAGE + OUT_PROD, 11)
    typed, shown = os.pipe(), os.pipe()
    try:
        with Unchanged(memory):
            console = Console(
                memory,
                PAGE,
                lambda: None,
                PlainTerminal(typed[0], shown[1]),
                Loop(),
                Viewers(Loop()),
            )
        console.pump()
        assert os.read(shown[0], 99) == b"said before"
    finally:
        for fd in (*typed, *shown):
            os.close(fd)


def test_the_xenstores_page() -> None:
    guest = XenstoreGuest()
    # The guest has not taken its reply yet, and has asked again.
    guest.ask(Operation.READ, b"name\0")
    guest.backend.pump()
    guest.ask(Operation.READ, b"vm\0")
    image = guest.backend.dump(port=3)
    # Another server's word to the guest, which counts for as long as the connection does.
    guest.memory.write_u32(PAGE + ring.SERVER_FEATURES, 1)
    with Unchanged(guest.memory):
        guest.backend = XenstoreBackend(guest.memory, PAGE, guest.notify, image)
        RingTransport(Connection(Store().state, 1), guest.memory, PAGE, guest.notify)
    guest.backend.pump()
    assert guest.answer() == (Operation.READ, b"one")
    assert guest.answer()[0] == Operation.READ
