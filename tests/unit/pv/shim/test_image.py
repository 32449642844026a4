"""The shim: its built code, and the tables through which guests reach it."""

from __future__ import annotations

import re
import struct

import pytest

from kvmxen.kvm.layout import HOLE_END, PAGE_SIZE
from kvmxen.kvm.memory import GuestMemory
from kvmxen.pv.shim.abi import code, constants
from kvmxen.pv.shim.image import Placement, ShimImage
from kvmxen.pv.shim.plan import plan
from kvmxen.xen.abi import x86, xen
from kvmxen.xen.abi.x86 import PTE_FRAME, PTE_LARGE, PTE_NX, PTE_PRESENT, PTE_USER, PTE_WRITE

C = constants()
GATES = ("EXITS_GATE", "RING0_GATE", "KERNEL_GATE", "USER_GATE")


@pytest.mark.parametrize("stub", range(C["NR_STUBS"]))
def test_each_stub_tells_its_number(stub: int) -> None:
    at = C["EXITS_GATE"] + C["GATE_STUBS"] + stub * C["STUB_SIZE"]
    stub_code = code()[at : at + C["STUB_SIZE"]]
    # push %rax; mov %cr2, %rax before the page fault's
    expected = bytes.fromhex("500f20d0") if stub == x86.TRAP_PAGE_FAULT else b""
    assert stub_code.startswith(expected + bytes([0xE6, stub]))


def test_the_gates_have_the_same_operations() -> None:
    """The host's work lists do not depend on the gate. tests/e2e/test_machine.py runs them."""
    start, end = C["GATE_OP_RETURN"], C["GATE_CALL_INVLPG"]
    operations = {code()[C[page] + start : C[page] + end] for page in GATES}
    assert len(operations) == 1
    built = operations.pop()
    names = {"GATE_IRET", *(name for name in C if name.startswith("GATE_OP_"))}
    assert all(built[C[name] - start] for name in names)


def test_only_the_gate_of_a_dispatcher_in_ring_3_has_calls() -> None:
    start, end = C["GATE_CALL_INVLPG"], C["GATE_CALL_USER_GS"] + 1
    calls = {page: code()[C[page] + start : C[page] + end] for page in GATES}
    built = calls.pop("KERNEL_GATE")
    assert all(built[C[name] - start] for name in C if name.startswith("GATE_CALL_"))
    assert not any(map(any, calls.values()))


@pytest.mark.parametrize("page", GATES)
def test_a_debug_exception_is_the_hosts_and_can_go_on(page: str) -> None:
    """It arrives on a stack of its own, and may have interrupted any other entry."""
    port = x86.TRAP_DEBUG + (C["STUB_KERNEL"] if page == "KERNEL_GATE" else 0)
    stub = code()[C[page] + C["GATE_STUBS"] + x86.TRAP_DEBUG * C["STUB_SIZE"] :]
    assert stub.startswith(bytes([0xE6, port]) + bytes.fromhex("48cf"))


@pytest.mark.parametrize("vector", sorted({*range(C["STUB_EVENT"])} - {x86.TRAP_DEBUG}))
def test_the_ways_between_address_spaces_go_on_there(vector: int) -> None:
    def stub(page: str) -> bytes:
        return code()[C[page] + C["GATE_STUBS"] + vector * C["STUB_SIZE"] :][: C["STUB_SIZE"]]

    load_cr3, swapgs, iretq = map(bytes.fromhex, ("0f22d8", "0f01f8", "48cf"))
    user, kernel = stub("USER_GATE"), stub("KERNEL_GATE")
    # The switch into the kernel's; then, in the only stub that has both, the switch back.
    ways = [part.start() for part in re.finditer(re.escape(load_cr3 + swapgs), user)]
    assert len(ways) == (2 if vector == x86.TRAP_BREAKPOINT else 1)
    for way in ways:
        start = way + len(load_cr3)
        end = user.index(iretq, start) + len(iretq)
        assert kernel[start:end] == user[start:end]
    assert kernel[ways[-1] :].startswith(load_cr3) == (len(ways) == 2)


def test_the_syscall_page_only_traps() -> None:
    page = code()[C["SYSCALL_TRAP"] :][:PAGE_SIZE]
    assert page[C["SYSCALL_ENTRY"]] == 0xCC


@pytest.mark.parametrize("name", ["SYSCALL32", "SYSENTER"])
def test_system_calls_of_32_bit_code_lead_to_where_user_code_has_nothing(name: str) -> None:
    """Some hosts continue at the low half of the address."""
    assert C["SHIM_VA"] + C[f"GATE_{name}"] & 0xFFFFFFFF < PAGE_SIZE
    for page in set(GATES) - {"RING0_GATE"}:
        entry = code()[C[page] + C[f"GATE_{name}"] :]
        assert entry.startswith(bytes([0xE6, C[f"TRAP_{name}"]]))


class Built:
    def __init__(
        self, memory: int = 64 << 20, vcpus: int = 2, placement: Placement = Placement.EXITS
    ) -> None:
        self.layout = plan(memory, vcpus)
        self.memory = GuestMemory(self.layout.end)
        self.image = ShimImage(self.memory, self.layout)
        self.image.create()
        self.image.place(placement, xen_version=4 << 16, tsc_khz=2_000_000, sets_fs_base=False)

    def find(self, va: int, view: str = "kernel") -> tuple[int, int] | None:
        """(gpa, the flags that hold at every level and NX if any has it) of `va`, as the tables
        of `view` have it."""
        entry = getattr(self.image.slots, view)[(va >> 39 & 511) - xen.XEN_FIRST_SLOT]
        flags, nx = entry & 7, entry & PTE_NX
        for level in (3, 2, 1):
            shift = 12 + 9 * (level - 1)
            entry = self.memory.read_u64((entry & PTE_FRAME) + (va >> shift & 511) * 8)
            if not entry & PTE_PRESENT:
                return None
            flags, nx = flags & entry & 7, nx | entry & PTE_NX
            if entry & PTE_LARGE:
                return entry & PTE_FRAME & -(1 << shift) | va & (1 << shift) - 1, flags | nx
        return entry & PTE_FRAME | va & 0xFFF, flags | nx

    def walk(self, va: int, view: str = "kernel") -> tuple[int, int]:
        """As `find`, for an address that must be mapped."""
        found = self.find(va, view)
        assert found, f"va {va:#x}"
        return found

    def users(self, view: str) -> dict[int, tuple[int, int]]:
        """The shim's own pages that ring 3 can reach: offset to gpa and flags."""
        pages = {
            at: self.walk(C["SHIM_VA"] + at, view)
            for at in range(0, self.layout.xenheap_gpa, PAGE_SIZE)
        }
        return {at: found for at, found in pages.items() if found[1] & PTE_USER}

    def syscall_pages(self) -> list[int]:
        parts = map(self.image.vcpu_gpa, range(self.layout.vcpus))
        return [part + C["VCPU_SYSCALL_PAGE"] for part in parts]


@pytest.fixture(scope="module")
def built() -> Built:
    return Built()


@pytest.mark.parametrize("placement", Placement)
@pytest.mark.parametrize("view", ["pinned", "kernel", "user", "shared"])
def test_the_gate_is_ring_0s_alone_and_read_only(placement: Placement, view: str) -> None:
    built = Built(placement=placement)
    names = {
        (Placement.EXITS, view): "EXITS_GATE",
        (Placement.RING0, view): "RING0_GATE",
        (Placement.RING3, view): "USER_GATE",
        (Placement.RING3, "kernel"): "KERNEL_GATE",
        (Placement.RING3, "shared"): "EXITS_GATE",
    }
    assert built.walk(C["SHIM_VA"], view) == (C[names[placement, view]], PTE_PRESENT)
    assert built.memory.read(0, len(code())) == code()


@pytest.mark.parametrize("placement", Placement)
@pytest.mark.parametrize("view", ["pinned", "user", "shared"])
def test_user_code_reaches_the_trap_of_a_system_call_at_most(
    placement: Placement, view: str
) -> None:
    built = Built(placement=placement)
    trap = (C["SYSCALL_TRAP"], PTE_PRESENT | PTE_USER)
    expected = {} if placement is Placement.RING0 else dict.fromkeys(built.syscall_pages(), trap)
    assert built.users(view) == expected


def test_the_kernel_reaches_no_more_without_a_dispatcher_in_ring_3(built: Built) -> None:
    assert built.users("kernel") == built.users("user")
    assert Built(placement=Placement.RING0).users("kernel") == {}


def test_a_dispatcher_in_ring_0_is_behind_the_system_call() -> None:
    built = Built(placement=Placement.RING0)
    for at in built.syscall_pages():
        assert built.walk(C["SHIM_VA"] + at, "user") == (C["SYSCALL_PAGE"], PTE_PRESENT)


def test_what_the_kernel_reaches_of_a_dispatcher_in_ring_3() -> None:
    built = Built(placement=Placement.RING3)
    users = built.users("kernel")
    writable = {at for at, (_, flags) in users.items() if flags & PTE_WRITE}
    expected = set()
    for index in range(built.layout.vcpus):
        part = built.image.vcpu_gpa(index)
        expected.add(part + C["VCPU_TRAP_STACK_END"] & -PAGE_SIZE)
        expected.update(range(part + C["VCPU_STATE"], part + C["VCPU_FRAME_END"], PAGE_SIZE))
    assert writable == expected
    for at, (gpa, _) in users.items():
        assert gpa == (C["SYSCALL_PAGE"] if at in built.syscall_pages() else at)
    assert C["SHIM_IDT"] not in users
    assert not any(built.image.vcpu_gpa(i) + C["VCPU_TSS"] in users for i in range(2))


@pytest.mark.parametrize("memory", [64 << 20, 4 << 30])
def test_a_dispatcher_in_ring_3_has_all_memory_but_the_shims(memory: int) -> None:
    built = Built(memory, placement=Placement.RING3)
    for gpa in range(0, built.layout.xenheap_gpa, PAGE_SIZE):
        assert built.find(C["PHYSMAP_VA"] + gpa) is None
    frames = [built.layout.xenheap_gpa, built.layout.m2p_gpa, built.layout.types_gpa]
    frames += [extent.mfn * PAGE_SIZE for extent in built.layout.ram]
    for gpa in frames:
        flags = PTE_PRESENT | PTE_WRITE | PTE_NX
        assert built.walk(C["PHYSMAP_VA"] + gpa) == (gpa, flags | PTE_USER)
        assert built.walk(C["PHYSMAP_VA"] + gpa, "user") == (gpa, flags)


def test_the_rest_of_the_shim_is_ring_0s(built: Built) -> None:
    pages = set(range(C["SHIM_IDT"], built.layout.xenheap_gpa, PAGE_SIZE))
    for gpa in pages - set(built.syscall_pages()):
        assert built.walk(C["SHIM_VA"] + gpa) == (gpa, PTE_PRESENT | PTE_WRITE)
    assert built.find(C["SHIM_VA"] + built.layout.xenheap_gpa) is None


@pytest.mark.parametrize("memory", [64 << 20, 4 << 30, 64 << 30])
def test_all_memory_is_the_kernels_and_no_code(memory: int) -> None:
    built = Built(memory)
    for extent in built.layout.ram:
        for mfn in (extent.mfn, extent.mfn + extent.frames - 1):
            gpa = mfn * PAGE_SIZE
            assert built.walk(C["PHYSMAP_VA"] + gpa) == (gpa, PTE_PRESENT | PTE_WRITE | PTE_NX)


@pytest.mark.parametrize("memory", [64 << 20, 4 << 30, 64 << 30])
def test_the_m2p_table_is_everybodys_to_read(memory: int) -> None:
    built = Built(memory)
    for offset in (0, built.layout.max_mfn * 8 - 8):
        gpa = built.layout.m2p_gpa + offset
        assert built.walk(C["M2P_VA"] + offset) == (gpa, PTE_PRESENT | PTE_USER | PTE_NX)


def test_the_idts_gates_lead_to_their_stubs(built: Built) -> None:
    idt = built.image.idt_va - C["SHIM_VA"]
    for vector in range(256):
        low, selector, ist, kind, middle, high, zero = struct.unpack(
            "<HHBBHII", built.memory.read(idt + vector * 16, 16)
        )
        stub = {
            C["VECTOR_EVENT"]: C["STUB_EVENT"],
            C["VECTOR_TIMER"]: C["STUB_TIMER"],
            C["VECTOR_SPURIOUS"]: C["STUB_SPURIOUS"],
        }.get(vector, vector)
        if stub == vector and vector >= 32:
            assert not kind & 0x80
            continue
        assert high << 32 | middle << 16 | low == C["SHIM_VA"] + stub * C["STUB_SIZE"]
        assert (selector, zero) == (C["SEL_RING0_CS"], 0)
        assert ist == (3 if vector == x86.TRAP_DEBUG else 1 if stub == vector else 2)
        assert kind == (0xEE if vector in (3, 4) else 0x8E)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("placement", Placement)
def test_a_vcpus_part(placement: Placement, index: int) -> None:
    built = Built(placement=placement)
    part = built.image.vcpu_gpa(index)
    va = C["SHIM_VA"] + part
    assert C["VCPU_SIZE"] % PAGE_SIZE == 0
    tss = built.memory.read(part + C["VCPU_TSS"], 104)
    stacks = C["VCPU_TRAP_STACK_END"], C["VCPU_INTERRUPT_STACK_END"]
    if placement is Placement.RING0:
        stacks = C["VCPU_FRAME_END"], C["VCPU_FRAME_END"]
    ends = [va + stack for stack in (*stacks, C["VCPU_DEBUG_STACK_END"])]
    assert struct.unpack_from("<Q", tss, 4)[0] == ends[0]
    assert list(struct.unpack_from("<3Q", tss, 36)) == ends
    # The I/O bitmap lies beyond the TSS's limit: ring 3 can use no port.
    assert struct.unpack_from("<H", tss, 102)[0] >= 104
    low, high = struct.unpack("<QQ", built.memory.read(part + C["VCPU_GDT"] + C["SEL_TSS"], 16))
    base = low >> 16 & 0xFFFFFF | (low >> 56) << 24 | high << 32
    assert base == va + C["VCPU_TSS"]
    assert low & 0xFFFF == 103


@pytest.mark.parametrize(
    ("selector", "dpl", "code", "long"),
    [
        (C["SEL_RING0_CS"], 0, True, True),
        (C["SEL_RING0_SS"], 0, False, False),
        (xen.FLAT_RING3_CS32, 3, True, False),
        (xen.FLAT_RING3_SS, 3, False, False),
        (xen.FLAT_RING3_CS64, 3, True, True),
    ],
)
def test_the_flat_segments(built: Built, selector: int, dpl: int, code: bool, long: bool) -> None:
    descriptor = built.memory.read_u64(built.image.vcpu_gpa(0) + C["VCPU_GDT"] + (selector & ~7))
    assert descriptor >> 47 & 1
    assert descriptor >> 45 & 3 == dpl == selector & 3
    assert bool(descriptor >> 43 & 1) == code
    assert bool(descriptor >> 53 & 1) == long


def test_sysret_and_syscall_find_their_segments() -> None:
    assert C["SEL_RING0_SS"] == C["SEL_RING0_CS"] + 8
    assert xen.FLAT_RING3_SS == xen.FLAT_RING3_CS32 + 8
    assert xen.FLAT_RING3_CS64 == xen.FLAT_RING3_CS32 + 16
    assert HOLE_END < 1 << 39


def test_ports_are_behind_what_the_shim_knows_of_the_domain() -> None:
    built = Built()
    at, room = C["SHIM_DOMAIN"], C["SHIM_TABLES"] - C["SHIM_DOMAIN"]
    before = built.memory.read(at, room)
    for port, kind in ((0, 1), (4095, 9), (0, 0)):
        built.image.domain.set_port(port, kind)
    after = built.memory.read(at, room)
    size = built.image.domain.ports_gpa - at
    assert size > 0
    assert (before[:size], any(before[size:])) == (after[:size], False)
    assert after[size:] == bytes(4095) + b"\x09" + bytes(room - size - 4096)


@pytest.mark.parametrize("port", [4096, 1 << 31])
def test_there_are_no_ports_beyond_the_channels(port: int) -> None:
    with pytest.raises(IndexError):
        Built().image.domain.set_port(port, 1)
