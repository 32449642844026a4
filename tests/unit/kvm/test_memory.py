"""Guest memory: an access outside it is a fault and never happens."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmxen.errors import GuestFault, KvmxenError
from kvmxen.kvm.layout import HOLE_END, HOLE_START, PAGE_SIZE
from kvmxen.kvm.memory import GuestMemory

SIZE = 0x8000
MEMORY = GuestMemory(SIZE)
# Sparse: with RAM on both sides of the hole.
LARGE = GuestMemory(HOLE_END + 0x4000)
MASK64 = (1 << 64) - 1

edges = st.builds(
    lambda base, delta: base + delta & MASK64,
    st.sampled_from([0, SIZE, HOLE_START, HOLE_END, HOLE_END + 0x4000, 1 << 63, MASK64]),
    st.integers(-16, 16),
)
addresses = edges | st.integers(0, MASK64)
lengths = st.integers(0, 0x40) | edges


def inside(memory: GuestMemory, gpa: int, length: int) -> bool:
    end = gpa + length
    return end <= memory.size and (end <= HOLE_START or gpa >= HOLE_END)


@pytest.mark.parametrize("memory", [MEMORY, LARGE], ids=["small", "large"])
@given(gpa=addresses, length=lengths)
def test_only_what_is_wholly_inside_is_read(memory: GuestMemory, gpa: int, length: int) -> None:
    if inside(memory, gpa, length) and length:
        if length <= 0x40:
            assert memory.read(gpa, length) == bytes(length)
            assert memory.view(gpa, length).nbytes == length
    elif length:
        for access in (memory.read, memory.view, memory.zero, memory.discard):
            with pytest.raises(GuestFault):
                access(gpa, length)


@pytest.mark.parametrize("memory", [MEMORY, LARGE], ids=["small", "large"])
@given(gpa=addresses, data=st.binary(min_size=1, max_size=32))
def test_a_write_is_all_or_nothing(memory: GuestMemory, gpa: int, data: bytes) -> None:
    if inside(memory, gpa, len(data)):
        memory.write(gpa, data)
        assert memory.read(gpa, len(data)) == data
        memory.zero(gpa, len(data))
        assert memory.read(gpa, len(data)) == bytes(len(data))
    else:
        with pytest.raises(GuestFault):
            memory.write(gpa, data)
        assert MEMORY.read(0, SIZE) == bytes(SIZE)


@given(gpa=addresses, bit=st.integers(0, 64))
def test_bits_are_bounded_too(gpa: int, bit: int) -> None:
    byte = gpa + (bit >> 3) & MASK64
    if inside(MEMORY, byte, 1):
        assert not MEMORY.set_bit(gpa, bit)
        assert MEMORY.test_bit(gpa, bit)
        assert MEMORY.read(byte, 1)[0] == 1 << (bit & 7)
        assert MEMORY.clear_bit(gpa, bit)
        assert not MEMORY.clear_bit(gpa, bit)
    else:
        for access in (MEMORY.set_bit, MEMORY.test_bit, MEMORY.clear_bit):
            with pytest.raises(GuestFault):
                access(gpa, bit)


@given(gpa=addresses, count=st.integers(1, 16) | st.sampled_from([1 << 60, 1 << 61, MASK64]))
def test_a_fill_is_bounded_though_its_length_wraps(gpa: int, count: int) -> None:
    if inside(MEMORY, gpa, count * 8):
        MEMORY.fill_u64(gpa, count, 7, 3)
        assert [MEMORY.read_u64(gpa + i * 8) for i in range(count)] == [
            7 + i * 3 for i in range(count)
        ]
        MEMORY.zero(gpa, count * 8)
    else:
        with pytest.raises(GuestFault):
            MEMORY.fill_u64(gpa, count, 7, 3)


def test_words_are_little_endian() -> None:
    memory = GuestMemory(PAGE_SIZE)
    memory.write_u64(8, 0x1122334455667788)
    assert memory.read(8, 8) == bytes.fromhex("8877665544332211")
    memory.write_u32(8, 0xAABBCCDD)
    assert memory.read_u64(8) == 0x11223344AABBCCDD
    assert memory.read_u32(12) == 0x11223344
    memory.write_u8(8, 1)
    assert memory.read(8, 1)[0] == 1


def test_a_copy_is_private_and_a_view_is_not() -> None:
    memory = GuestMemory(PAGE_SIZE)
    copy, view = memory.read(0, 4), memory.view(0, 4)
    memory.write(0, b"abcd")
    assert copy == bytes(4)
    assert bytes(view) == b"abcd"
    view[0] = ord("x")
    assert memory.read(0, 4) == b"xbcd"


def test_discarded_pages_read_as_zero_and_are_the_hosts_again() -> None:
    memory = GuestMemory(16 * PAGE_SIZE)
    memory.write(0, b"\xff" * 16 * PAGE_SIZE)
    used = os.fstat(memory.fd).st_blocks
    memory.discard(4 * PAGE_SIZE, 8 * PAGE_SIZE)
    assert os.fstat(memory.fd).st_blocks == used // 2
    assert memory.read(4 * PAGE_SIZE, 8 * PAGE_SIZE) == bytes(8 * PAGE_SIZE)
    assert memory.read(0, 4 * PAGE_SIZE) == b"\xff" * 4 * PAGE_SIZE


def test_memory_that_nobody_touched_costs_nothing() -> None:
    memory = GuestMemory(64 << 30)
    memory.write(63 << 30, b"x")
    assert os.fstat(memory.fd).st_blocks * 512 == PAGE_SIZE


def test_memory_that_the_host_cannot_map_is_a_sentence() -> None:
    with pytest.raises(KvmxenError, match="give the guest less memory"):
        GuestMemory(1 << 62)


def test_the_descriptor_goes_with_the_object() -> None:
    memory = GuestMemory(PAGE_SIZE)
    fd = memory.fd
    assert not os.get_inheritable(fd)
    del memory
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.mark.parametrize("released", [False, True])
def test_much_is_written_at_once(released: bool) -> None:
    memory = GuestMemory(1 << 20)
    memory.write(0, b"\xff" * 0x1000)
    if released:
        memory.release()
    before = memory.read(0, 0x1000)
    data = os.urandom(300_001)
    memory.write(0x123, data)
    assert memory.read(0, 0x123) == before[:0x123]
    assert memory.read(0x123, len(data)) == data
    assert memory.read(0x123 + len(data), 0x10000) == bytes(0x10000)
    with pytest.raises(GuestFault):
        memory.write((1 << 20) - 300_000, data)
