"""The backend's end of a shared ring, against a frontend that follows ring.h, and others."""

from __future__ import annotations

import struct
import threading
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmxen.errors import GuestFault
from kvmxen.kvm.layout import PAGE_SIZE
from kvmxen.kvm.memory import GuestMemory, Window
from kvmxen.ring.byte_ring import RingBroken
from kvmxen.xen.abi.ring import ENTRIES, REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD, ring_size
from tests.unit.ring.built import PythonRing

WRAP = 1 << 32
# Indices that a ring may have reached: the start, and the wraps of 31 and 32 bits.
STARTS = (0, 7, (1 << 31) - 3, WRAP - 3)
REQUEST, RESPONSE = 24, 8
EIGHT = tuple(page * PAGE_SIZE for page in (7, 1, 9, 2, 3, 30, 31, 0))


class Frontend:
    """The other end, with the header's macros; requests and responses are numbers."""

    def __init__(self, window: Window, start: int = 0) -> None:
        self.window = window
        self.view = window.view()
        # Whole words: struct would store them byte by byte.
        self.words = window.view().cast("I")
        self.size = ring_size(window.size, REQUEST)
        self.req_prod = self.rsp_cons = start
        for field, value in (
            (REQ_PROD, start),
            (RSP_PROD, start),
            (REQ_EVENT, start + 1),
            (RSP_EVENT, start + 1),
        ):
            self.store(field, value)

    def load(self, field: int) -> int:
        return self.words[field // 4]

    def store(self, field: int, value: int) -> None:
        self.words[field // 4] = value % WRAP

    def entry(self, index: int) -> int:
        return ENTRIES + index % self.size * REQUEST

    def free(self) -> int:
        return self.size - (self.req_prod - self.rsp_cons) % WRAP

    def request(self, number: int) -> None:
        struct.pack_into("<QQQ", self.view, self.entry(self.req_prod), number, ~number % 2**64, 5)
        self.req_prod = (self.req_prod + 1) % WRAP

    def push(self) -> bool:
        old, new = self.load(REQ_PROD), self.req_prod
        self.store(REQ_PROD, new)
        return (new - self.load(REQ_EVENT)) % WRAP < (new - old) % WRAP

    def response(self) -> int | None:
        if self.rsp_cons == self.load(RSP_PROD):
            return None
        number = struct.unpack_from("<Q", self.view, self.entry(self.rsp_cons))[0]
        self.rsp_cons = (self.rsp_cons + 1) % WRAP
        return int(number)

    def final_check(self) -> bool:
        self.store(RSP_EVENT, self.rsp_cons + 1)
        return self.rsp_cons != self.load(RSP_PROD)


@pytest.fixture
def memory() -> GuestMemory:
    return GuestMemory(64 * PAGE_SIZE)


def make(
    memory: GuestMemory, start: int = 0, gpas: tuple[int, ...] = (PAGE_SIZE,)
) -> tuple[Frontend, PythonRing]:
    window = Window(memory, gpas)
    return Frontend(window, start), PythonRing(window, REQUEST, RESPONSE)


def number_of(request: bytes | None) -> int | None:
    return None if request is None else int(struct.unpack_from("<Q", request)[0])


def answer(ring: PythonRing, number: int) -> None:
    ring.respond(struct.pack("<Q", number))


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("gpas", [(PAGE_SIZE,), (9 * PAGE_SIZE, 4 * PAGE_SIZE), EIGHT])
def test_rounds(memory: GuestMemory, start: int, gpas: tuple[int, ...]) -> None:
    front, back = make(memory, start, gpas)
    assert back.size == front.size
    numbers = count()
    for _ in range(3):
        sent = [next(numbers) for _ in range(front.size)]
        for number in sent:
            front.request(number)
        assert front.free() == 0
        front.push()
        assert [number_of(back.request()) for _ in sent] == sent
        assert back.request() is None
        assert back.unanswered == front.size
        for number in reversed(sent):
            answer(back, number)
        assert front.response() is None
        back.push_responses()
        assert [front.response() for _ in sent] == sent[::-1]
    assert not back.broken


@pytest.mark.parametrize("start", STARTS)
def test_events_only_where_they_are_wanted(memory: GuestMemory, start: int) -> None:
    front, back = make(memory, start)
    front.request(1)
    assert front.push()
    front.request(2)
    # The backend is awake: it has not asked for an event with the next request.
    assert not front.push()
    assert number_of(back.request()) == 1
    assert back.final_check()
    assert number_of(back.request()) == 2
    assert not back.final_check()
    front.request(3)
    assert front.push()
    assert number_of(back.request()) == 3

    answer(back, 1)
    assert back.push_responses()
    answer(back, 2)
    assert not back.push_responses()
    assert not back.push_responses()
    assert [front.response(), front.response()] == [1, 2]
    assert not front.final_check()
    answer(back, 3)
    assert back.push_responses()


def test_one_event_for_many(memory: GuestMemory) -> None:
    front, back = make(memory)
    for number in range(5):
        front.request(number)
    assert front.push()
    for _ in range(5):
        answer(back, number_of(back.request()) or 0)
    assert back.push_responses()
    # The frontend wants its next event only with the third response from here.
    front.store(RSP_EVENT, 8)
    for number in range(3):
        front.request(number)
    front.push()
    for expected in (False, False, True):
        back.request()
        answer(back, 0)
        assert back.push_responses() is expected


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("surplus", [1, 1000, (1 << 31) - 200, -1, -200])
def test_an_index_that_cannot_be(memory: GuestMemory, start: int, surplus: int) -> None:
    front, back = make(memory, start)
    front.store(REQ_PROD, start + surplus + (front.size if surplus > 0 else 0))
    for _ in range(2):
        with pytest.raises(RingBroken):
            back.request()
        with pytest.raises(RingBroken):
            back.final_check()
        # It stays broken.
        front.store(REQ_PROD, start)
    assert back.broken


def test_requests_beyond_those_unanswered(memory: GuestMemory) -> None:
    front, back = make(memory)
    for number in range(front.size):
        front.request(number)
    front.push()
    for _ in range(front.size):
        back.request()
    # The ring is full of unanswered requests: one more would overwrite one of them.
    front.store(REQ_PROD, front.size + 1)
    with pytest.raises(RingBroken):
        back.request()


def test_the_producer_goes_back(memory: GuestMemory) -> None:
    front, back = make(memory)
    for number in range(4):
        front.request(number)
    front.push()
    back.request()
    back.request()
    front.store(REQ_PROD, 1)
    with pytest.raises(RingBroken):
        back.request()


def test_own_indices_are_not_read_back(memory: GuestMemory) -> None:
    front, back = make(memory)
    front.request(1)
    front.push()
    front.store(RSP_PROD, 77)
    assert number_of(back.request()) == 1
    answer(back, 1)
    back.push_responses()
    assert front.load(RSP_PROD) == 1


def test_a_request_is_a_private_copy(memory: GuestMemory) -> None:
    front, back = make(memory)
    front.request(1)
    front.push()
    taken = back.request()
    front.req_prod = 0
    front.request(99)
    assert number_of(taken) == 1


def test_a_response_leaves_the_rest_of_its_entry(memory: GuestMemory) -> None:
    front, back = make(memory)
    for number in (1, 2):
        front.request(number)
    front.push()
    back.request()
    answer(back, 42)
    back.push_responses()
    first = struct.unpack_from("<QQQ", front.view, front.entry(0))
    assert first == (42, ~1 % 2**64, 5)
    assert struct.unpack_from("<QQQ", front.view, front.entry(1)) == (2, ~2 % 2**64, 5)


@given(st.data())
def test_any_order(data: st.DataObject) -> None:
    front, back = make(GuestMemory(4 * PAGE_SIZE), data.draw(st.sampled_from(STARTS)))
    numbers = count()
    on_ring: list[int] = []
    taken: list[int] = []
    answered: list[int] = []
    for step in data.draw(st.lists(st.sampled_from("qtrpg"), max_size=200)):
        if step == "q" and front.free():
            on_ring.append(next(numbers))
            front.request(on_ring[-1])
            front.push()
        elif step == "t":
            number = number_of(back.request())
            assert number == (on_ring.pop(0) if on_ring else None)
            taken += [number] if number is not None else []
        elif step == "r" and taken:
            answered.append(taken.pop(data.draw(st.integers(0, len(taken) - 1))))
            answer(back, answered[-1])
        elif step == "p":
            back.push_responses()
        elif step == "g" and (number := front.response()) is not None:
            assert number == answered.pop(0)
    assert not back.broken


def test_two_threads_lose_no_event(memory: GuestMemory) -> None:
    """Each side sleeps only after its final check; after a lost event it would sleep forever."""
    front, back = make(memory)
    to_back, to_front = threading.Semaphore(0), threading.Semaphore(0)
    total = 2000

    def serve() -> None:
        served = 0
        while served < total:
            while (request := number_of(back.request())) is not None:
                answer(back, request)
                served += 1
            if back.push_responses():
                to_front.release()
            if served < total and not back.final_check():
                assert to_back.acquire(timeout=120)

    server = threading.Thread(target=serve)
    server.start()
    sent = got = 0
    while got < total:
        while sent < total and front.free():
            front.request(sent)
            sent += 1
        if front.push():
            to_back.release()
        while (number := front.response()) is not None:
            assert number == got
            got += 1
        if got < sent and not front.final_check():
            assert to_front.acquire(timeout=120)
    server.join()


@pytest.fixture
def frames() -> GuestMemory:
    return GuestMemory(8 * PAGE_SIZE)


def test_a_window_shows_the_guests_frames_in_order(frames: GuestMemory) -> None:
    window = Window(frames, [5 * PAGE_SIZE, PAGE_SIZE])
    assert window.size == 2 * PAGE_SIZE
    view = window.view()
    frames.write(6 * PAGE_SIZE - 2, b"ab")
    frames.write(PAGE_SIZE, b"cd")
    assert bytes(view[PAGE_SIZE - 2 : PAGE_SIZE + 2]) == b"abcd"
    view[PAGE_SIZE] = ord("X")
    assert frames.read(PAGE_SIZE, 2) == b"Xd"


@pytest.mark.parametrize("gpa", [8 * PAGE_SIZE, PAGE_SIZE + 8, (1 << 64) - PAGE_SIZE])
def test_a_window_of_what_is_no_frame(frames: GuestMemory, gpa: int) -> None:
    with pytest.raises(GuestFault):
        Window(frames, [0, gpa])


@pytest.mark.parametrize(
    ("length", "entry", "size"),
    [(4096, 112, 32), (4096, 108, 32), (65536, 112, 512), (4096, 12, 256), (4096, 8, 256)],
)
def test_ring_size(length: int, entry: int, size: int) -> None:
    assert ring_size(length, entry) == size


def test_no_room_for_an_entry() -> None:
    with pytest.raises(ValueError, match="no entry"):
        ring_size(4096, 4096)
