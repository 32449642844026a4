"""The shared page: requests, replies, a slow guest, a hostile one, reconnection."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmxen.kvm.memory import GuestMemory
from kvmxen.xen.abi.layouts.xs_wire import xenstore_domain_interface
from kvmxen.xen.abi.xs_wire import Feature, RingError
from kvmxen.xen.abi.xs_wire import Operation as Op
from kvmxen.xenstore import ring
from kvmxen.xenstore.connection import Connection
from kvmxen.xenstore.domain import FEATURES
from kvmxen.xenstore.permissions import Permission
from kvmxen.xenstore.ring import RingTransport
from kvmxen.xenstore.store import Store
from kvmxen.xenstore.wire import HEADER, Message, Parser

GPA = 0x5000


class Guest:
    """A guest's driver, with a page whose indices start at `start`."""

    def __init__(self, start: int = 0) -> None:
        self.store = Store()
        self.store.mkdir("/local/domain/1")
        self.store.set_permissions("/local/domain/1", Permission(1))
        self.memory = GuestMemory(1 << 16)
        for field in (ring.REQ_CONS, ring.REQ_PROD, ring.RSP_CONS, ring.RSP_PROD):
            self.set(field, start)
        self.kicks = 0
        self.parser = Parser()
        connection = Connection(self.store.state, 1)
        self.transport = RingTransport(connection, self.memory, GPA, self._kick)
        self.transport.create()

    def _kick(self) -> None:
        self.kicks += 1

    def get(self, field: int) -> int:
        return self.memory.read_u32(GPA + field)

    def set(self, field: int, value: int) -> None:
        self.memory.write_u32(GPA + field, value % 2**32)

    def put(self, data: bytes) -> int:
        """Put as much of `data` as fits into the request ring."""
        prod = self.get(ring.REQ_PROD)
        data = data[: 1024 - (prod - self.get(ring.REQ_CONS)) % 2**32]
        for i, byte in enumerate(data):
            self.memory.write(GPA + ring.REQ + (prod + i) % 1024, bytes([byte]))
        self.set(ring.REQ_PROD, prod + len(data))
        return len(data)

    def take(self) -> list[Message]:
        """The contents of the response ring."""
        cons = self.get(ring.RSP_CONS)
        count = (self.get(ring.RSP_PROD) - cons) % 2**32
        page = self.memory.read(GPA + ring.RSP, 1024)
        data = bytes(page[(cons + i) % 1024] for i in range(count))
        self.set(ring.RSP_CONS, cons + count)
        return list(self.parser.feed(data))

    def ask(self, *requests: Message) -> list[Message]:
        """Send the requests, as slowly as the ring needs, and collect all messages."""
        data = b"".join(request.encode() for request in requests)
        found: list[Message] = []
        for _ in range(1000):
            data = data[self.put(data) :]
            self.transport.pump()
            messages = self.take()
            found += messages
            if not data and not messages and not self.transport.pump():
                return found
        raise AssertionError("it does not end")


@pytest.mark.parametrize("start", [0, 1000, 2**31 - 20, 2**32 - 20, 2**32 - 1])
def test_requests_and_replies(start: int) -> None:
    guest = Guest(start)
    value = bytes(range(256)) * 7
    assert guest.ask(
        Message(Op.WRITE, 1, 0, b"x\0" + value),
        Message(Op.READ, 2, 0, b"x\0"),
        Message(Op.READ, 3, 0, b"y\0"),
    ) == [
        Message(Op.WRITE, 1, 0, b"OK\0"),
        Message(Op.READ, 2, 0, value),
        Message(Op.ERROR, 3, 0, b"ENOENT\0"),
    ]
    assert guest.kicks > 0
    assert guest.get(ring.REQ_CONS) == guest.get(ring.REQ_PROD)
    assert guest.get(ring.SERVER_FEATURES) == FEATURES


def test_golden_page() -> None:
    guest = Guest()
    guest.put(Message(Op.GET_DOMAIN_PATH, 5, 0, b"1\0").encode())
    assert guest.transport.pump() is False
    page = xenstore_domain_interface.parse(guest.memory.read(GPA, 4096))
    reply = HEADER.pack(Op.GET_DOMAIN_PATH, 5, 0, 16) + b"/local/domain/1\0"
    assert page.rsp[:32] == reply
    assert page.rsp[32:] == bytes(992)
    assert (page.req_cons, page.req_prod, page.rsp_cons, page.rsp_prod) == (18, 18, 0, 32)
    assert (page.server_features, page.connection, page.error) == (15, 0, 0)
    assert guest.kicks == 1


def test_nothing_to_do_is_no_event() -> None:
    guest = Guest()
    assert guest.transport.pump() is False
    assert guest.kicks == 0


def test_events_wait_for_a_pump() -> None:
    guest = Guest()
    guest.ask(Message(Op.WATCH, 1, 0, b"x\0t\0"))
    guest.store.write("/local/domain/1/x", b"")
    assert guest.take() == []
    guest.transport.pump()
    assert guest.take() == [Message(Op.WATCH_EVENT, 0, 0, b"x\0t\0")]


def test_events_are_pushed() -> None:
    guest = Guest()
    guest.ask(Message(Op.WATCH, 1, 0, b"x\0t\0"))
    guest.transport.push()
    kicks = guest.kicks
    guest.store.write("/local/domain/1/x", b"")
    guest.put(Message(Op.READ, 2, 0, b"x\0").encode())
    guest.transport.push()
    guest.transport.push()
    assert guest.kicks == kicks + 1
    assert guest.take() == [Message(Op.WATCH_EVENT, 0, 0, b"x\0t\0")]
    guest.set(ring.RSP_CONS, guest.get(ring.RSP_CONS) + 1)
    guest.transport.push()
    assert guest.transport.broken
    guest.transport.push()


def test_requests_wait_while_replies_are_not_taken() -> None:
    guest = Guest()
    request = Message(Op.READ, 1, 0, b"x\0").encode()
    sent = 0
    for _ in range(200):
        put = guest.put(request)
        sent += put == len(request)
        guest.transport.pump()
        if put < len(request):
            break
    else:
        pytest.fail("the transport went on reading")
    assert guest.get(ring.REQ_PROD) - guest.get(ring.REQ_CONS) > 1000
    replies = 0
    while messages := guest.take():
        replies += len(messages)
        guest.transport.pump()
    assert replies == sent


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (ring.REQ_PROD, 1025),
        (ring.REQ_PROD, 2**31),
        (ring.REQ_PROD, 2**32 - 1),
        (ring.RSP_CONS, 1),
        (ring.RSP_CONS, 2**31),
        (ring.RSP_CONS, -1025),
    ],
)
def test_a_bad_index_breaks_this_connection_only(field: int, value: int) -> None:
    guest = Guest()
    guest.ask(Message(Op.WATCH, 1, 0, b"x\0t\0"))
    base = guest.get(field)
    guest.set(field, base + value)
    guest.transport.pump()
    assert guest.transport.broken
    assert guest.get(ring.ERROR) == RingError.RINGIDX
    assert guest.store.state.domain(1).watches == 0
    guest.store.write("/local/domain/1/x", b"fine")
    assert guest.store.read("/local/domain/1/x") == b"fine"
    guest.set(field, base)
    guest.put(Message(Op.READ, 2, 0, b"x\0").encode())
    before = guest.memory.read(GPA, 4096)
    assert guest.transport.pump() is False
    assert guest.memory.read(GPA, 4096) == before


def test_an_error_is_told_only_to_those_who_know_of_that() -> None:
    guest = Guest()
    guest.store.state.domain(1).features = int(Feature.WATCHDEPTH)
    guest.set(ring.REQ_PROD, 5000)
    guest.transport.pump()
    assert guest.transport.broken
    assert guest.get(ring.ERROR) == RingError.NONE
    assert guest.kicks == 1
    guest.set(ring.CONNECTION, 1)
    guest.transport.pump()
    assert guest.transport.broken
    assert guest.get(ring.CONNECTION) == 1


def test_dom0_begins_a_ring_anew_and_ends_it() -> None:
    guest = Guest(1000)
    guest.ask(Message(Op.WATCH, 1, 0, b"x\0t\0"))
    guest.store.state.domain(1).features = int(Feature.RECONNECTION)
    guest.set(ring.CONNECTION, 1)
    guest.store.state.introduce(1)
    for field in (*range(ring.REQ_CONS, ring.SERVER_FEATURES, 4), ring.CONNECTION):
        assert guest.get(field) == 0
    assert guest.get(ring.SERVER_FEATURES) == Feature.RECONNECTION
    assert guest.ask(Message(Op.READ, 1, 0, b"y\0")) == [Message(Op.ERROR, 1, 0, b"ENOENT\0")]
    guest.store.state.release(1)
    guest.put(Message(Op.READ, 1, 0, b"x\0").encode())
    assert guest.transport.pump() is False
    guest.transport.push()
    assert guest.take() == []
    guest.store.state.introduce(1)
    assert guest.ask(Message(Op.READ, 1, 0, b"y\0")) == [Message(Op.ERROR, 1, 0, b"EACCES\0")]


def test_a_payload_too_long_breaks_the_connection() -> None:
    guest = Guest()
    guest.put(HEADER.pack(Op.WRITE, 1, 0, 4097))
    guest.transport.pump()
    assert guest.transport.broken
    assert guest.get(ring.ERROR) == RingError.PROTO


def test_reconnection_starts_afresh() -> None:
    guest = Guest()
    guest.ask(Message(Op.WATCH, 1, 0, b"x\0t\0"), Message(Op.TRANSACTION_START, 2, 0, b"\0"))
    guest.put(HEADER.pack(Op.WRITE, 3, 0, 100) + b"half")
    guest.transport.pump()
    guest.put(HEADER.pack(Op.WRITE, 4, 0, 5000))
    guest.set(ring.CONNECTION, 1)
    kicks = guest.kicks
    guest.transport.pump()
    assert guest.kicks > kicks
    for field in range(ring.REQ_CONS, ring.SERVER_FEATURES, 4):
        assert guest.get(field) == 0
    assert (guest.get(ring.CONNECTION), guest.get(ring.ERROR)) == (0, 0)
    assert guest.store.state.domain(1).watches == guest.store.state.domain(1).transactions == 0
    assert guest.ask(Message(Op.READ, 5, 0, b"y\0")) == [Message(Op.ERROR, 5, 0, b"ENOENT\0")]


def test_a_broken_ring_can_reconnect() -> None:
    guest = Guest()
    guest.set(ring.REQ_PROD, 5000)
    guest.transport.pump()
    assert guest.transport.broken
    guest.set(ring.CONNECTION, 1)
    guest.transport.pump()
    assert not guest.transport.broken
    assert guest.get(ring.ERROR) == RingError.NONE
    assert guest.ask(Message(Op.READ, 5, 0, b"y\0")) == [Message(Op.ERROR, 5, 0, b"ENOENT\0")]


def test_one_pump_s_work_is_bounded() -> None:
    """A guest that answers each event with another request does not occupy the host forever."""
    guest = Guest()
    request = Message(Op.READ, 1, 0, b"x\0").encode()
    original = guest.transport._round

    def refill() -> bool:
        guest.take()
        guest.put(request)
        return original()

    guest.transport._round = refill  # type: ignore[method-assign]
    guest.put(request)
    assert guest.transport.pump() is True


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(
                st.sampled_from([ring.REQ_CONS, ring.REQ_PROD, ring.RSP_CONS, ring.RSP_PROD])
                | st.sampled_from([ring.CONNECTION, ring.ERROR, ring.SERVER_FEATURES]),
                st.integers(0, 2**32 - 1) | st.integers(0, 2000),
            ),
            st.binary(max_size=300),
            st.builds(
                lambda op, tx, body: Message(op, 1, tx, body).encode(),
                st.integers(0, 30),
                st.integers(0, 2),
                st.sampled_from([b"x\0", b"x\0t\0", b"\0", b"T\0", b"/\0", b"x/y\0v", b"x\0n1\0"]),
            ),
        ),
        max_size=30,
    )
)
def test_whatever_the_guest_does_the_store_and_other_memory_live(
    actions: list[tuple[int, int] | bytes],
) -> None:
    guest = Guest()
    guest.memory.write(GPA - 4096, b"\xaa" * 4096)
    guest.memory.write(GPA + 4096, b"\xaa" * 4096)
    for action in actions:
        if isinstance(action, tuple):
            guest.set(*action)
        else:
            at = guest.get(ring.REQ_PROD) % 1024
            guest.memory.write(GPA + at, action[: 1024 - at])
            guest.set(ring.REQ_PROD, guest.get(ring.REQ_PROD) + len(action[: 1024 - at]))
        guest.transport.pump()
    guest.store.write("/alive", b"yes")
    assert guest.store.read("/alive") == b"yes"
    assert guest.memory.read(GPA - 4096, 4096) == b"\xaa" * 4096
    assert guest.memory.read(GPA + 4096, 4096) == b"\xaa" * 4096
