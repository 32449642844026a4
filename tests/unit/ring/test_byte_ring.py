"""The byte rings compared with a plain byte stream, at every awkward index."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmxen.errors import GuestFault
from kvmxen.kvm.memory import GuestMemory
from kvmxen.ring.byte_ring import RingBroken, RingReader, RingWriter

SIZE = 1024
GPA = 0x3000
CONS = GPA + SIZE
PROD = CONS + 4
STARTS = [0, 1, SIZE - 1, SIZE, 2**31 - 3, 2**31, 2**32 - 1, 2**32 - SIZE, 2**32 - 5]


def make(start: int = 0) -> GuestMemory:
    memory = GuestMemory(1 << 16)
    memory.write_u32(CONS, start)
    memory.write_u32(PROD, start)
    return memory


def guest_puts(memory: GuestMemory, data: bytes) -> None:
    """Produce one byte at a time, as a frontend may."""
    prod = memory.read_u32(PROD)
    for i, byte in enumerate(data):
        memory.write(GPA + (prod + i) % SIZE, bytes([byte]))
    memory.write_u32(PROD, (prod + len(data)) % 2**32)


def guest_takes(memory: GuestMemory) -> bytes:
    cons, prod = memory.read_u32(CONS), memory.read_u32(PROD)
    count = (prod - cons) % 2**32
    data = b"".join(memory.read(GPA + (cons + i) % SIZE, 1) for i in range(count))
    memory.write_u32(CONS, prod)
    return data


@pytest.mark.parametrize("start", STARTS)
def test_reader_takes_what_the_guest_put(start: int) -> None:
    memory = make(start)
    reader = RingReader(memory, GPA, SIZE, CONS, PROD)
    message = bytes(i % 251 for i in range(SIZE))
    assert reader.pending == 0
    assert reader.read(100) == b""
    guest_puts(memory, message)
    assert reader.pending == SIZE
    assert reader.read(10) + reader.read(5000) == message
    assert memory.read_u32(CONS) == (start + SIZE) % 2**32
    assert reader.pending == 0


@pytest.mark.parametrize("start", STARTS)
def test_writer_fills_and_no_more(start: int) -> None:
    memory = make(start)
    writer = RingWriter(memory, GPA, SIZE, CONS, PROD)
    message = bytes(i % 253 for i in range(SIZE + 7))
    assert writer.free == SIZE
    assert writer.write(b"") == 0
    assert writer.write(message) == SIZE
    assert writer.free == 0
    assert writer.write(b"x") == 0
    assert guest_takes(memory) == message[:SIZE]
    assert writer.write(message[SIZE:]) == 7
    assert guest_takes(memory) == message[SIZE:]


def test_golden_bytes() -> None:
    memory = make(2**32 - 2)
    RingWriter(memory, GPA, SIZE, CONS, PROD).write(b"abcd")
    assert memory.read(GPA + SIZE - 2, 2) == b"ab"
    assert memory.read(GPA, 2) == b"cd"
    assert memory.read(CONS, 8) == b"\xfe\xff\xff\xff\x02\x00\x00\x00"


@pytest.mark.parametrize("excess", [SIZE + 1, 2**31, 2**32 - 1])
def test_an_impossible_index_breaks_the_ring_and_touches_nothing(excess: int) -> None:
    memory = make(5)
    reader = RingReader(memory, GPA, SIZE, CONS, PROD)
    memory.write_u32(PROD, (5 + excess) % 2**32)
    with pytest.raises(RingBroken):
        reader.read(1)
    with pytest.raises(RingBroken):
        _ = reader.pending
    assert memory.read_u32(CONS) == 5

    memory = make(5)
    writer = RingWriter(memory, GPA, SIZE, CONS, PROD)
    memory.write_u32(CONS, (5 - excess) % 2**32)
    with pytest.raises(RingBroken):
        writer.write(b"hello")
    with pytest.raises(RingBroken):
        _ = writer.free
    assert memory.read(GPA, SIZE) == bytes(SIZE)


def test_our_own_index_is_not_read_back() -> None:
    memory = make()
    reader = RingReader(memory, GPA, SIZE, CONS, PROD)
    guest_puts(memory, b"0123456789")
    assert reader.read(4) == b"0123"
    memory.write_u32(CONS, 77)
    assert reader.read(100) == b"456789"
    assert memory.read_u32(CONS) == 10


def test_reset_empties() -> None:
    memory = make(9)
    reader = RingReader(memory, GPA, SIZE, CONS, PROD)
    guest_puts(memory, b"left over")
    reader.reset()
    assert reader.pending == 0
    assert (memory.read_u32(CONS), memory.read_u32(PROD)) == (0, 0)
    guest_puts(memory, b"new")
    assert reader.read(SIZE) == b"new"


def test_addresses_and_size_are_checked() -> None:
    memory = make()
    with pytest.raises(GuestFault):
        RingReader(memory, memory.size - SIZE + 1, SIZE, CONS, PROD)
    with pytest.raises(GuestFault):
        RingWriter(memory, GPA, SIZE, memory.size - 3, PROD)
    with pytest.raises(ValueError, match="power of two"):
        RingReader(memory, GPA, 1000, CONS, PROD)


@given(
    start=st.integers(0, 2**32 - 1),
    pieces=st.lists(st.tuples(st.binary(max_size=1500), st.integers(0, 1500)), max_size=20),
)
def test_the_stream_arrives_whole_and_in_order(start: int, pieces: list[tuple[bytes, int]]) -> None:
    memory = make(start)
    writer = RingWriter(memory, GPA, SIZE, CONS, PROD)
    reader = RingReader(memory, GPA, SIZE, CONS, PROD)
    sent = received = b""
    for data, limit in pieces:
        count = writer.write(data)
        assert count == min(len(data), SIZE - (len(sent) - len(received)))
        sent += data[:count]
        received += reader.read(limit)
    assert received + reader.read(SIZE) == sent
