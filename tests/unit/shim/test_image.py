"""The shim: its code as built, and the tables through which guests reach it."""

from __future__ import annotations

import re
import struct
from importlib import resources

import pytest

from kvmxen.layout import HOLE_END, PAGE_SIZE, SHIM_VCPU_FRAMES, Layout
from kvmxen.memory import GuestMemory
from kvmxen.shim.abi import constants, gate
from kvmxen.shim.image import ShimImage

C = constants()
PRESENT, WRITE, USER, LARGE, NX = 1, 2, 4, 0x80, 1 << 63
FRAME = 0x000FFFFFFFFFF000


def test_every_line_of_the_header_is_understood() -> None:
    text = resources.files("kvmxen.shim").joinpath("abi.h").read_text()
    assert len(re.findall(r"^#", text, re.MULTILINE)) == len(C)


@pytest.mark.parametrize("stub", range(C["NR_STUBS"]))
def test_each_stub_tells_its_number(stub: int) -> None:
    at = C["GATE_STUBS"] + stub * C["STUB_SIZE"]
    code = gate()[at : at + C["STUB_SIZE"]]
    # push %rax; mov %cr2, %rax before the page fault's
    expected = bytes.fromhex("500f20d0") if stub == C["TRAP_PAGE_FAULT"] else b""
    assert code.startswith(expected + bytes([0xE6, stub]))


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("GATE_OP_RETURN", "58"),
        ("GATE_IRET", "48cf"),
        ("GATE_OP_TOUCH", "58f04883080 0c3"),
        ("GATE_OP_INVLPG", "580f0138c3"),
        ("GATE_OP_CR3", "580f22d8c3"),
        ("GATE_OP_CR0", "580f22c0c3"),
        ("GATE_OP_SWAPGS", "0f01f8c3"),
        ("GATE_OP_HALT", "fbf4ebfd"),
    ],
)
def test_golden_operations(name: str, code: str) -> None:
    expected = bytes.fromhex(code.replace(" ", ""))
    assert gate()[C[name] : C[name] + len(expected)] == expected


def test_the_syscall_page_only_traps() -> None:
    page = gate()[C["GATE_SIZE"] :]
    assert len(page) == PAGE_SIZE
    assert page[C["SYSCALL_ENTRY"]] == page[C["SYSCALL32_ENTRY"]] == 0xCC


class Built:
    def __init__(self, memory: int = 64 << 20, vcpus: int = 2) -> None:
        self.layout = Layout.plan(memory, vcpus)
        self.memory = GuestMemory(self.layout.end)
        self.image = ShimImage(self.memory, self.layout)

    def walk(self, va: int) -> tuple[int, int]:
        """(gpa, the flags that hold at every level and NX if any has it) of `va`."""
        entry = self.image.l4_entries[va >> 39 & 511]
        flags, nx = entry & 7, entry & NX
        for level in (3, 2, 1):
            shift = 12 + 9 * (level - 1)
            entry = self.memory.read_u64((entry & FRAME) + (va >> shift & 511) * 8)
            assert entry & PRESENT, f"va {va:#x} at level {level}"
            flags, nx = flags & entry & 7, nx | entry & NX
            if entry & LARGE:
                return entry & FRAME & -(1 << shift) | va & (1 << shift) - 1, flags | nx
        return entry & FRAME | va & 0xFFF, flags | nx


@pytest.fixture(scope="module")
def built() -> Built:
    return Built()


def test_the_gate_is_the_kernels_alone_and_read_only(built: Built) -> None:
    assert built.walk(C["SHIM_VA"]) == (0, PRESENT)
    assert built.memory.read(0, len(gate())) == gate()


def test_the_syscall_page_is_everybodys_and_read_only(built: Built) -> None:
    assert built.walk(C["SHIM_VA"] + C["GATE_SIZE"]) == (PAGE_SIZE, PRESENT | USER)


def test_the_rest_of_the_shim_is_the_kernels(built: Built) -> None:
    for gpa in range(2 * PAGE_SIZE, built.layout.xenheap_gpa, PAGE_SIZE):
        assert built.walk(C["SHIM_VA"] + gpa) == (gpa, PRESENT | WRITE)
    with pytest.raises(AssertionError):
        built.walk(C["SHIM_VA"] + built.layout.xenheap_gpa)


@pytest.mark.parametrize("memory", [64 << 20, 4 << 30, 64 << 30])
def test_all_memory_is_the_kernels_and_no_code(memory: int) -> None:
    built = Built(memory)
    for extent in built.layout.ram:
        for mfn in (extent.mfn, extent.mfn + extent.frames - 1):
            gpa = mfn * PAGE_SIZE
            assert built.walk(C["PHYSMAP_VA"] + gpa) == (gpa, PRESENT | WRITE | NX)


@pytest.mark.parametrize("memory", [64 << 20, 4 << 30, 64 << 30])
def test_the_m2p_table_is_everybodys_to_read(memory: int) -> None:
    built = Built(memory)
    for offset in (0, built.layout.max_mfn * 8 - 8):
        gpa = built.layout.m2p_gpa + offset
        assert built.walk(C["M2P_VA"] + offset) == (gpa, PRESENT | USER | NX)


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
        assert (selector, ist, zero) == (C["SEL_RING0_CS"], 1, 0)
        assert kind == (0xEE if vector in (3, 4) else 0x8E)


@pytest.mark.parametrize("index", [0, 1])
def test_a_vcpus_part(built: Built, index: int) -> None:
    part = built.image.vcpu_gpa(index)
    va = C["SHIM_VA"] + part
    assert C["VCPU_SIZE"] == SHIM_VCPU_FRAMES * PAGE_SIZE
    tss = built.memory.read(part + C["VCPU_TSS"], 104)
    assert struct.unpack_from("<Q", tss, 4)[0] == va + C["VCPU_TRAP_STACK_END"]
    assert struct.unpack_from("<Q", tss, 36)[0] == va + C["VCPU_TRAP_STACK_END"]
    # The I/O bitmap lies beyond the TSS's limit: ring 3 has no port.
    assert struct.unpack_from("<H", tss, 102)[0] >= 104
    low, high = struct.unpack("<QQ", built.memory.read(part + C["VCPU_GDT"] + C["SEL_TSS"], 16))
    base = low >> 16 & 0xFFFFFF | (low >> 56) << 24 | high << 32
    assert base == va + C["VCPU_TSS"]
    assert low & 0xFFFF == 103


@pytest.mark.parametrize(
    ("selector", "dpl", "code", "long"),
    [
        ("SEL_RING0_CS", 0, True, True),
        ("SEL_RING0_SS", 0, False, False),
        ("SEL_RING3_CS32", 3, True, False),
        ("SEL_RING3_SS", 3, False, False),
        ("SEL_RING3_CS64", 3, True, True),
    ],
)
def test_the_flat_segments(built: Built, selector: str, dpl: int, code: bool, long: bool) -> None:
    descriptor = built.memory.read_u64(built.image.vcpu_gpa(0) + C["VCPU_GDT"] + (C[selector] & ~7))
    assert descriptor >> 47 & 1
    assert descriptor >> 45 & 3 == dpl == C[selector] & 3
    assert bool(descriptor >> 43 & 1) == code
    assert bool(descriptor >> 53 & 1) == long


def test_sysret_and_syscall_find_their_segments() -> None:
    assert C["SEL_RING0_SS"] == C["SEL_RING0_CS"] + 8
    assert C["SEL_RING3_SS"] == C["SEL_RING3_CS32"] + 8
    assert C["SEL_RING3_CS64"] == C["SEL_RING3_CS32"] + 16
    assert HOLE_END < 1 << 39
