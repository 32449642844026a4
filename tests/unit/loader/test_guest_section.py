"""The section __xen_guest: kernels from before there were ELF notes."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmxen.errors import KvmxenError
from kvmxen.loader.elf import ElfKernel
from kvmxen.loader.guest_section import notes_of
from kvmxen.xen.abi.elfnote import NoteType as N
from tests.unit.loader.images import ENTRY, START, VIRT_BASE, Load, elf, elf32, u64

# As in Linux 2.6.18 and NetBSD.
LINUX = (
    b"GUEST_OS=linux,GUEST_VER=2.6,XEN_VER=xen-3.0,VIRT_BASE=0xffffffff80000000,"
    b"ELF_PADDR_OFFSET=0xffffffff80000000,HYPERCALL_PAGE=0x102,"
    b"FEATURES=writable_page_tables|!pae_pgdir_above_4gb,LOADER=generic\0junk=1"
)
# p_paddr holds virtual addresses.
LOADS = (Load(VIRT_BASE + START),)


def test_what_it_says() -> None:
    assert notes_of(LINUX) == {
        N.GUEST_OS: b"linux",
        N.GUEST_VERSION: b"2.6",
        N.XEN_VERSION: b"xen-3.0",
        N.VIRT_BASE: u64(VIRT_BASE),
        N.PADDR_OFFSET: u64(VIRT_BASE),
        N.HYPERCALL_PAGE: u64(VIRT_BASE + 0x102000),
        N.FEATURES: b"writable_page_tables|!pae_pgdir_above_4gb",
        N.LOADER: b"generic",
    }


@pytest.mark.parametrize(
    ("text", "kind", "descriptor"),
    [
        (b"PAE=yes[extended-cr3]", N.PAE_MODE, b"yes[extended-cr3]"),
        (b"BSD_SYMTAB=yes", N.BSD_SYMTAB, b"yes"),
        (b"BSD_SYMTAB", N.BSD_SYMTAB, b""),
        (b"VIRT_ENTRY=4096", N.ENTRY, u64(4096)),
        (b"VIRT_ENTRY=010000,", N.ENTRY, u64(4096)),
        (b",,VIRT_ENTRY=0X1000", N.ENTRY, u64(4096)),
        (b"VIRT_BASE=4096", N.PADDR_OFFSET, u64(4096)),
        (b"VIRT_BASE=4096,ELF_PADDR_OFFSET=0", N.PADDR_OFFSET, u64(0)),
        (b"HYPERCALL_PAGE=2", N.HYPERCALL_PAGE, u64(0x2000)),
        (b"HYPERCALL_PAGE=0xffffffffffffffff", N.HYPERCALL_PAGE, u64((1 << 64) - 4096)),
        (b"HYPERCALL_PAGE=2,VIRT_BASE=0x1000", N.HYPERCALL_PAGE, u64(0x3000)),
        (b"LOADER=a,LOADER=generic", N.LOADER, b"generic"),
    ],
)
def test_keys(text: bytes, kind: N, descriptor: bytes) -> None:
    assert notes_of(text)[kind] == descriptor


@pytest.mark.parametrize("text", [b"", b"\0LOADER=generic", b",", b"FRUIT=apple", b"\xff" * 9])
def test_nothing_said(text: bytes) -> None:
    assert notes_of(text) == {}


@pytest.mark.parametrize("value", [b"", b"here", b"0x", b"-1", b"08", b"1" * 20, b"0x" + b"f" * 17])
def test_no_number(value: bytes) -> None:
    with pytest.raises(KvmxenError, match="__xen_guest, which is not a number"):
        notes_of(b"VIRT_BASE=" + value)


KEYS = ["VIRT_BASE", "VIRT_ENTRY", "ELF_PADDR_OFFSET", "HYPERCALL_PAGE", "LOADER", "PAE", "X"]
VALUES = st.one_of(
    st.sampled_from(
        ["0", "0x1000", "077", "0xffffffff80000000", "18446744073709551615", "generic"]
    ),
    st.text("0123456789abcdefx=, ", max_size=24),
)


@given(st.lists(st.tuples(st.sampled_from(KEYS), VALUES), max_size=6), st.binary(max_size=6))
def test_any_text_is_notes_or_refused(pairs: list[tuple[str, str]], junk: bytes) -> None:
    text = ",".join(f"{key}={value}" for key, value in pairs).encode() + junk
    section = LINUX.partition(b"\0")[0] + b"," + text
    with suppress(KvmxenError):
        kernel = ElfKernel.parse(elf({}, LOADS, guest_section=section))
        assert kernel.start <= kernel.entry < kernel.end


def test_a_kernel_with_it() -> None:
    kernel = ElfKernel.parse(elf({}, LOADS, guest_section=LINUX))
    assert (kernel.entry, kernel.start) == (ENTRY, VIRT_BASE + START)
    assert kernel.notes.virt_offset == 0
    assert kernel.notes.required == {"pae_pgdir_above_4gb"}
    assert kernel.notes.hypercall_page == VIRT_BASE + 0x102000


def test_notes_come_first() -> None:
    assert ElfKernel.parse(elf(guest_section=b"GUEST_OS=plan9")).notes.guest_os == "linux"


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (elf({}, LOADS, guest_section=b""), "has no Xen notes"),
        (elf({}, LOADS, guest_section=b"FRUIT=apple"), "has no Xen notes"),
        (elf({}, LOADS, guest_section=LINUX.replace(b"xen-3.0", b"xen-2.0")), "'xen-2.0'"),
        (elf({}, LOADS, guest_section=LINUX.replace(b"0x102", b"0x999")), "hypercall page"),
        (elf({}, LOADS, guest_section=b"ELF_PADDR_OFFSET=0"), "but no VIRT_BASE"),
        (elf32(), "is a 32-bit kernel; kvmxen boots 64-bit PV kernels"),
    ],
)
def test_refused(image: bytes, message: str) -> None:
    with pytest.raises(KvmxenError, match=message):
        ElfKernel.parse(image)


@pytest.mark.parametrize("names", [0, 1, 99])
def test_section_names_that_are_elsewhere(names: int) -> None:
    image = bytearray(elf({}, LOADS, guest_section=LINUX))
    image[0x3E:0x40] = names.to_bytes(2, "little")
    with pytest.raises(KvmxenError, match="has no Xen notes"):
        ElfKernel.parse(bytes(image))
