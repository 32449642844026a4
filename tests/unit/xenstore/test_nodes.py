"""The nodes that a PV domain finds in xenstore, and those that it may change."""

from __future__ import annotations

import pytest

from kvmxen.xen.abi.xs_wire import Operation as Op
from kvmxen.xenstore.nodes import populate
from kvmxen.xenstore.store import Store
from tests.unit.xenstore.client import Client

UUID = "6e2a1d5c-0000-4000-8000-000000000001"


def fill(store: Store) -> None:
    populate(
        store,
        domid=1,
        name="demo",
        uuid=UUID,
        memory_kib=524288,
        max_memory_kib=1048576,
        vcpus=2,
        max_vcpus=3,
        console_mfn=0x4321,
        console_port=2,
        store_mfn=0x4320,
        store_port=1,
    )


@pytest.fixture
def guest() -> Client:
    store = Store()
    fill(store)
    return Client(store.state, 1)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (b"domid", b"1"),
        (b"name", b"demo"),
        (b"vm", f"/vm/{UUID}".encode()),
        (b"memory/target", b"524288"),
        (b"memory/static-max", b"1048576"),
        (b"cpu/0/availability", b"online"),
        (b"cpu/1/availability", b"online"),
        (b"cpu/2/availability", b"offline"),
        (b"store/ring-ref", b"17184"),
        (b"store/port", b"1"),
        (b"console/ring-ref", b"17185"),
        (b"console/port", b"2"),
        (b"console/type", b"xenconsoled"),
        (b"console/limit", b"1048576"),
        (b"console/backend-id", b"0"),
        (b"console/backend", b"/local/domain/0/backend/console/1/0"),
        (b"console/tty", b""),
        (b"control/platform-feature-multiprocessor-suspend", b"1"),
        (b"control/shutdown", b""),
        (f"/vm/{UUID}/uuid".encode(), UUID.encode()),
        (b"/local/domain/0/backend/console/1/0/frontend", b"/local/domain/1/console"),
        (b"/local/domain/0/backend/console/1/0/state", b"1"),
    ],
)
def test_what_the_guest_reads(guest: Client, path: bytes, value: bytes) -> None:
    assert guest.ask(Op.READ, path + b"\0") == value


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        (b"control/shutdown", b"OK\0"),
        (b"control/feature-poweroff", b"OK\0"),
        (b"control/feature-reboot", b"OK\0"),
        (b"control/sysrq", b"OK\0"),
        (b"data/anything", b"OK\0"),
        (b"device/suspend/event-channel", b"OK\0"),
        (b"error/vif/0", b"OK\0"),
        (b"control/feature-new", "EACCES"),
        (b"name", "EACCES"),
        (b"domid", "EACCES"),
        (b"memory/target", "EACCES"),
        (b"cpu/0/availability", "EACCES"),
        (b"console/ring-ref", "EACCES"),
        (b"store/port", "EACCES"),
        (b"device/vbd", "EACCES"),
        (f"/vm/{UUID}/name".encode(), "EACCES"),
        (b"/local/domain/0/backend/console/1/0/state", "EACCES"),
    ],
)
def test_what_the_guest_may_write(guest: Client, path: bytes, answer: object) -> None:
    assert guest.ask(Op.WRITE, path + b"\x001") == answer


@pytest.mark.parametrize("path", [b"/", b"/local", b"/local/domain", b"/local/domain/0", b"/vm"])
def test_what_the_guest_may_not_read(guest: Client, path: bytes) -> None:
    assert guest.ask(Op.DIRECTORY, path + b"\0") == "EACCES"


def test_a_domain_that_starts_again_finds_the_same() -> None:
    once, twice = Store(), Store()
    fill(once)
    fill(twice)
    twice.write("/local/domain/1/data/left", b"over")
    fill(twice)

    def content(store: Store) -> dict[str, tuple[bytes, object]]:
        return {path: (node.value, node.permissions) for path, node in store.state.walk("/")}

    assert content(once) == content(twice)
    assert twice.state.is_introduced(1)
    assert twice.state.domain(1).nodes == once.state.domain(1).nodes == 11
