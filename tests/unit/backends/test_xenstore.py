"""xenstore as in the machine: the guest's nodes, its ring, and a request to shut down."""

from __future__ import annotations

import errno
import struct
import threading

import pytest

from kvmxen.backends.xenstore import XenstoreBackend
from kvmxen.errors import KvmxenError
from kvmxen.kvm.memory import GuestMemory
from kvmxen.xen.abi.xen import DOMID_GUEST
from kvmxen.xen.abi.xs_wire import RING_SIZE, Operation
from kvmxen.xenstore.dump import dump
from kvmxen.xenstore.errors import DumpError, XenstoreError
from kvmxen.xenstore.permissions import Permissions
from kvmxen.xenstore.store import Store
from kvmxen.xenstore.tree import Node

PAGE = 0x1000
# struct xenstore_domain_interface, offsets in bytes.
RSP, REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD = 1024, 2048, 2052, 2056, 2060


NODES: dict[str, object] = {
    "name": "one",
    "uuid": "00000000-0000-0000-0000-000000000001",
    "memory_kib": 524288,
    "max_memory_kib": 524288,
    "vcpus": 2,
    "max_vcpus": 2,
    "console_mfn": 5,
    "console_port": 1,
    "store_mfn": 6,
    "store_port": 2,
}


class Guest:
    """The guest's end of the xenstore of a started domain."""

    def __init__(self) -> None:
        self.memory = GuestMemory(2 * PAGE)
        self.events = 0
        self.backend = XenstoreBackend(self.memory, PAGE, self.notify)
        self.backend.populate(**NODES)

    def notify(self) -> None:
        self.events += 1

    def ask(self, operation: Operation, *payload: bytes) -> None:
        """Put a request in the ring."""
        body = b"".join(payload)
        prod = self.memory.read_u32(PAGE + REQ_PROD)
        for at, byte in enumerate(struct.pack("<4I", operation, 7, 0, len(body)) + body, prod):
            self.memory.write_u8(PAGE + at % RING_SIZE, byte)
        self.memory.write_u32(PAGE + REQ_PROD, prod + 16 + len(body))

    def answer(self) -> tuple[int, bytes]:
        """Take the oldest message: its type and payload."""
        cons = self.memory.read_u32(PAGE + RSP_CONS)
        kind, _, _, length = struct.unpack("<4I", self._bytes(cons, 16))
        self.memory.write_u32(PAGE + RSP_CONS, cons + 16 + length)
        return kind, self._bytes(cons + 16, length)

    def _bytes(self, start: int, count: int) -> bytes:
        assert self.memory.read_u32(PAGE + RSP_PROD) - start >= count
        return bytes(
            self.memory.read(PAGE + RSP + at % RING_SIZE, 1)[0]
            for at in range(start, start + count)
        )


@pytest.fixture
def guest() -> Guest:
    return Guest()


def test_the_guest_reads_its_nodes(guest: Guest) -> None:
    guest.ask(Operation.READ, b"name\0")
    guest.ask(Operation.READ, b"domid\0")
    guest.backend.pump()
    assert guest.answer() == (Operation.READ, b"one")
    assert guest.answer() == (Operation.READ, str(DOMID_GUEST).encode())
    assert guest.events > 0


def test_a_request_to_shut_down_is_an_event(guest: Guest) -> None:
    guest.ask(Operation.WATCH, b"control/shutdown\0", b"token\0")
    guest.backend.pump()
    assert guest.answer() == (Operation.WATCH, b"OK\0")
    assert guest.answer() == (Operation.WATCH_EVENT, b"control/shutdown\0token\0")
    guest.backend.request_shutdown("poweroff")
    assert guest.answer() == (Operation.WATCH_EVENT, b"control/shutdown\0token\0")
    guest.ask(Operation.READ, b"control/shutdown\0")
    guest.backend.pump()
    assert guest.answer() == (Operation.READ, b"poweroff")


def test_the_end_of_the_guest_is_told(guest: Guest) -> None:
    told: list[str] = []
    guest.backend.store.watch("@releaseDomain", told.append)
    guest.backend.shut_down()
    guest.backend.shut_down()
    assert told == ["@releaseDomain", "@releaseDomain"]


def test_what_others_change_reaches_the_guest(guest: Guest) -> None:
    guest.ask(Operation.WATCH, b"control/shutdown\0", b"token\0")
    guest.backend.pump()
    guest.answer()
    guest.answer()
    tool = guest.backend.store.connect()
    request = b"/local/domain/1/control/shutdown\0halt"
    tool.feed(struct.pack("<4I", Operation.WRITE, 1, 0, len(request)) + request)
    assert guest.answer() == (Operation.WATCH_EVENT, b"control/shutdown\0token\0")


def test_a_guest_that_breaks_its_ring_hurts_only_itself(guest: Guest) -> None:
    guest.memory.write_u32(PAGE + REQ_PROD, 0x7FFFFFFF)
    guest.backend.pump()
    guest.backend.pump()
    guest.backend.request_shutdown("poweroff")
    assert guest.backend.store.read("/local/domain/1/control/shutdown") == b"poweroff"


def test_a_guest_does_not_notice_that_its_xenstore_is_another(guest: Guest) -> None:
    guest.ask(Operation.WATCH, b"control/shutdown\0", b"token\0")
    guest.backend.pump()
    guest.answer()
    guest.answer()
    guest.ask(Operation.READ, b"name\0")
    half = guest.memory.read_u32(PAGE + REQ_PROD) - 3
    guest.memory.write_u32(PAGE + REQ_PROD, half)
    guest.backend.pump()
    image = guest.backend.dump(port=3)
    guest.backend = XenstoreBackend(guest.memory, PAGE, guest.notify, image)
    assert guest.backend.dump(port=3) == image
    guest.memory.write_u32(PAGE + REQ_PROD, half + 3)
    guest.backend.pump()
    assert guest.answer() == (Operation.READ, b"one")
    guest.backend.request_shutdown("halt")
    assert guest.answer() == (Operation.WATCH_EVENT, b"control/shutdown\0token\0")


def test_a_state_without_the_guest_is_refused(guest: Guest) -> None:
    with pytest.raises(DumpError, match="no connection of the guest"):
        XenstoreBackend(guest.memory, PAGE, guest.notify, dump(Store().state))


def test_threads_take_turns(guest: Guest) -> None:
    def ring() -> None:
        for _ in range(200):
            guest.backend.pump()

    threads = [threading.Thread(target=ring) for _ in range(3)]
    for thread in threads:
        thread.start()
    for how in ("poweroff", "reboot") * 50:
        guest.backend.request_shutdown(how)
    for thread in threads:
        thread.join()
    assert guest.backend.store.read("/local/domain/1/control/shutdown") == b"reboot"


class Full:
    """A recorder without room."""

    def note(self, path: str, before: Node | None, value: bytes, permissions: Permissions) -> None:
        pass

    def commit(self) -> None:
        raise XenstoreError(errno.ENOSPC)


def test_nodes_that_their_file_has_no_room_for() -> None:
    backend = XenstoreBackend(GuestMemory(2 * PAGE), PAGE, lambda: None)
    backend.store.state.recorder = Full()
    with pytest.raises(KvmxenError, match=r"cannot create .*: No space left on device; fix that"):
        backend.populate(**NODES)
