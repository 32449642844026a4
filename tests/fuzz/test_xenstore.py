"""Guests from hell at xenstore's wire and ring: whatever they send harms only themselves.

CI runs a fixed number of rounds. KVMXEN_FUZZ_SECONDS runs for that long, from another seed each
time. A failure names its seed, which KVMXEN_SEED repeats.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from random import Random

import pytest

from kvmxen.kvm.memory import GuestMemory
from kvmxen.xen.abi.xs_wire import ERROR_NAMES, PAYLOAD_MAX, RING_SIZE
from kvmxen.xen.abi.xs_wire import Operation as Op
from kvmxen.xenstore import ring
from kvmxen.xenstore.connection import Connection
from kvmxen.xenstore.control import inconsistencies
from kvmxen.xenstore.dump import dump
from kvmxen.xenstore.errors import ProtocolError
from kvmxen.xenstore.load import load
from kvmxen.xenstore.permissions import READ, Permission
from kvmxen.xenstore.quota import Quota
from kvmxen.xenstore.ring import RingTransport
from kvmxen.xenstore.store import Store
from kvmxen.xenstore.wire import HEADER, Message, Parser

ROUNDS = 150
STEPS = 120
SECONDS = float(os.environ.get("KVMXEN_FUZZ_SECONDS", "0"))
GPA = 0x5000
ERRORS = {name + b"\0" for name in ERROR_NAMES.values()}

WORDS = [
    b"data", b"data/a", b"data/a/b", b"/", b"/local/domain/1/data/x", b"/secret", b"/secret/key",
    b"/local/domain/2/data", b"/local/domain/2/data/own", b"@releaseDomain", b"@introduceDomain",
    b"@releaseDomain/1", b"@other", b"n1", b"r2", b"b1", b"w0", b"n0", b"r32757", b"n2", b"x1",
    b"T", b"F", b"token", b"0", b"1", b"2", b"-1", b"99999999999", b"65536", b"", b"//", b"data/",
    b"a" * 2048, b"data/" + b"b" * 3000, b"\xff\xfe", b"OK", b"nodes", b"memory", b"help", b"check",
]  # fmt: skip
INDICES = [ring.REQ_CONS, ring.REQ_PROD, ring.RSP_CONS, ring.RSP_PROD]
FIELDS = [*INDICES, ring.SERVER_FEATURES, ring.CONNECTION, ring.ERROR]


TIGHT = Quota(nodes=9, watches=3, transactions=2, memory=20_000)
OPERATIONS = [*Op, *[Op.WRITE, Op.MKDIR, Op.WATCH] * 4, *[Op.TRANSACTION_START, Op.RM] * 2]


def seeds() -> Iterator[int]:
    """The seeds of the rounds."""
    if chosen := os.environ.get("KVMXEN_SEED"):
        yield int(chosen)
    elif SECONDS:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            yield int.from_bytes(os.urandom(6))
    else:
        yield from range(ROUNDS)


def make_store(random: Random) -> Store:
    """Domains 1 and 2, each with a place of its own, and a secret of dom0's."""
    quota = Quota() if random.random() < 0.5 else TIGHT
    store = Store(quota)
    store.write("/secret/key", b"hidden")
    for domid in (1, 2):
        store.write(f"/local/domain/{domid}/data/own", b"mine")
        store.set_permissions(f"/local/domain/{domid}", Permission(0), Permission(domid, READ))
        for path in ("data", "data/own"):
            store.set_permissions(f"/local/domain/{domid}/{path}", Permission(domid))
        store.state.introduce(domid)
    return store


def payload(random: Random) -> bytes:
    """Meaningful words in any order, with some damage."""
    words = [*WORDS, b"data/%d" % random.randrange(60), b"%d" % random.randrange(60)]
    parts = [random.choice(words) for _ in range(random.choice((0, 1, 1, 1, 2, 2, 3, 8)))]
    body = b"".join(part + b"\0" for part in parts)
    match random.randrange(12):
        case 0:
            body = body[:-1]
        case 1:
            body += random.randbytes(random.randrange(40))
        case 2 if body:
            at = random.randrange(len(body))
            body = body[:at] + random.randbytes(1) + body[at + 1 :]
        case 3:
            body += bytes(random.randrange(PAYLOAD_MAX))
    return body[:PAYLOAD_MAX]


def request(random: Random, number: int, transactions: list[int]) -> Message:
    operation = random.choice(OPERATIONS) if random.random() < 0.95 else random.getrandbits(32)
    tx = random.choice([0, 0, 0, *transactions, random.getrandbits(32)])
    return Message(operation, number, tx, payload(random))


def check(store: Store) -> None:
    """The invariants that must hold whatever domain 1 did."""
    assert inconsistencies(store.state) == []
    assert store.read("/secret/key") == b"hidden"
    assert store.read("/local/domain/2/data/own") == b"mine"
    domain = store.state.domain(1)
    assert domain.nodes <= domain.quota.nodes
    assert domain.watches <= domain.quota.watches
    assert domain.transactions <= domain.quota.transactions
    # Replies are not refused for lack of memory; the number that wait is bounded.
    assert domain.memory <= domain.quota.memory + 40 * (PAYLOAD_MAX + HEADER.size)
    store.write("/alive", b"yes")
    assert store.read("/alive") == b"yes"


def check_neighbour(connection: Connection) -> None:
    connection.feed(Message(Op.READ, 5, 0, b"data/own\0").encode())
    assert connection.take(1 << 20).endswith(Message(Op.READ, 5, 0, b"mine").encode())


def attack_wire(random: Random) -> None:
    store = make_store(random)
    neighbour, hostile = store.connect(2), store.connect(1)
    parser, waiting, transactions = Parser(), list[Message](), list[int]()
    number = 0

    def take(limit: int) -> None:
        for reply in parser.feed(hostile.take(limit)):
            if reply.type == Op.WATCH_EVENT:
                assert (reply.req_id, reply.tx_id) == (0, 0)
                assert reply.payload.count(b"\0") == 2
                continue
            asked = waiting.pop(0)
            assert reply[1:3] == asked[1:3]
            if reply.type == Op.ERROR:
                assert reply.payload in ERRORS
            else:
                assert reply.type == asked.type
                if reply.type == Op.TRANSACTION_START:
                    transactions.append(int(reply.payload[:-1]))

    for _ in range(STEPS):
        stream = b""
        for _ in range(random.randrange(6)):
            number += 1
            waiting.append(request(random, number, transactions))
            stream += waiting[-1].encode()
        while stream:
            if hostile.stalled:
                take(1 << 20)
            size = random.choice((1, 7, 16, 100, RING_SIZE))
            hostile.feed(stream[:size])
            stream = stream[size:]
            if random.random() < 0.3:
                take(random.choice((0, 1, 15, 17, 500, 5000)))
        if random.random() < 0.02:
            with pytest.raises(ProtocolError):
                hostile.feed(HEADER.pack(Op.READ, 0, 0, random.randrange(PAYLOAD_MAX + 1, 1 << 32)))
            hostile.reset()
            assert not hostile.pending
            parser, waiting, transactions = Parser(), [], []
        if random.random() < 0.05:
            store.write("/local/domain/1/data", random.randbytes(9))
    take(1 << 30)
    assert waiting == []
    check_neighbour(neighbour)
    check(store)
    again, _ = load(dump(store.state))
    assert inconsistencies(again.state) == []
    hostile.close()
    assert store.state.domain(1).watches == store.state.domain(1).transactions == 0


def attack_ring(random: Random) -> None:
    store = make_store(random)
    neighbour = store.connect(2)
    memory = GuestMemory(1 << 16)
    memory.write(GPA - 4096, b"\xaa" * 4096)
    memory.write(GPA + 4096, b"\xaa" * 4096)
    start = random.choice((0, 0, 1000, 2**31 - 9, 2**32 - 9))
    for index in INDICES:
        memory.write_u32(GPA + index, start % 2**32)
    connection = store.connect(1, lambda: store.state.defer(transport.push))
    transport = RingTransport(connection, memory, GPA, lambda: None)
    transport.create()
    for number in range(STEPS):
        match random.randrange(10):
            case 0:
                value = random.choice((0, 1, 1024, 1025, 2**31, 2**32 - 1, random.getrandbits(32)))
                memory.write_u32(GPA + random.choice(FIELDS), value)
            case 1:
                at = random.randrange(4096)
                memory.write(GPA + at, random.randbytes(random.randrange(4096 - at)))
            case 2:
                index = GPA + random.choice(INDICES)
                moved = memory.read_u32(index) + random.randrange(-40, 40)
                memory.write_u32(index, moved % 2**32)
            case 3:
                memory.write_u32(GPA + ring.RSP_CONS, memory.read_u32(GPA + ring.RSP_PROD))
            case 4:
                memory.write_u32(GPA + ring.CONNECTION, 1)
            case 5:
                store.write("/local/domain/1/data", random.randbytes(9))
            case _:
                stream = request(random, number, [1, 2]).encode()
                prod = memory.read_u32(GPA + ring.REQ_PROD)
                for at, byte in enumerate(stream[: random.randrange(1, RING_SIZE)], prod):
                    memory.write_u8(GPA + ring.REQ + at % RING_SIZE, byte)
                sent = min(len(stream), RING_SIZE) - random.choice((0, 0, 0, 1))
                memory.write_u32(GPA + ring.REQ_PROD, (prod + sent) % 2**32)
        if random.random() < 0.8:
            transport.pump()
        if transport.broken and memory.read_u32(GPA + ring.CONNECTION) != 1:
            assert not connection.pending
            before = memory.read(GPA, 4096)
            assert transport.pump() is False
            assert memory.read(GPA, 4096) == before
    check_neighbour(neighbour)
    check(store)
    assert memory.read(GPA - 4096, 4096) == memory.read(GPA + 4096, 4096) == b"\xaa" * 4096
    # Afterwards the guest reconnects.
    memory.write(GPA, bytes(4096))
    memory.write_u32(GPA + ring.CONNECTION, 1)
    transport.pump()
    memory.write(GPA, Message(Op.GET_DOMAIN_PATH, 9, 0, b"1\0").encode())
    memory.write_u32(GPA + ring.REQ_PROD, 18)
    transport.pump()
    reply = Message(Op.GET_DOMAIN_PATH, 9, 0, b"/local/domain/1\0").encode()
    assert memory.read(GPA + ring.RSP, len(reply)) == reply


@pytest.mark.timeout(max(300, 3 * SECONDS))
@pytest.mark.parametrize("attack", [attack_wire, attack_ring])
def test_a_hostile_guest_hurts_itself_only(attack: Callable[[Random], None]) -> None:
    rounds = 0
    for seed in seeds():
        try:
            attack(Random(seed))
        except Exception as error:
            raise AssertionError(f"KVMXEN_SEED={seed} repeats this") from error
        rounds += 1
    print(f"{rounds} rounds")
    assert rounds > 0
