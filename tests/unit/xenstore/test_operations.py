"""Each operation, permission and error, as tables of (who, request, expected answer).

The expected answers are those of Xen's C xenstored (docs/misc/xenstore.txt and
tools/xenstored/core.c).
"""

from __future__ import annotations

import pytest

from kvmxen.xen.abi.xs_wire import Operation as Op
from kvmxen.xenstore.domain import FEATURES
from kvmxen.xenstore.permissions import DOMID_ANY, Permission
from kvmxen.xenstore.store import Store
from kvmxen.xenstore.wire import HEADER
from tests.unit.xenstore.client import Client

OK = b"OK\0"
LONG = b"x" * 2049

ANSWERS = [
    # READ
    (1, Op.READ, b"name\0", b"guest"),
    (1, Op.READ, b"/local/domain/1/name\0", b"guest"),
    (1, Op.READ, b"data\0", b""),
    (1, Op.READ, b"nothing\0", "ENOENT"),
    (1, Op.READ, b"nothing/at/all\0", "ENOENT"),
    (1, Op.READ, b"/secret/key\0", "EACCES"),
    (1, Op.READ, b"/secret/nothing\0", "EACCES"),
    (1, Op.READ, b"/nothing\0", "EACCES"),
    (1, Op.READ, b"/\0", "EACCES"),
    (1, Op.READ, b"", "EINVAL"),
    (1, Op.READ, b"\0", "EINVAL"),
    (1, Op.READ, b"name", "EINVAL"),
    (1, Op.READ, b"name\0more", "EINVAL"),
    (1, Op.READ, b"name\0\0", "EINVAL"),
    (1, Op.READ, b"na me\0", "EINVAL"),
    (1, Op.READ, b"\xff\0", "EINVAL"),
    (1, Op.READ, b"@releaseDomain\0", "EINVAL"),
    (1, Op.READ, LONG + b"\0", "EINVAL"),
    (0, Op.READ, b"/secret/key\0", b"hidden"),
    (0, Op.READ, b"/nothing\0", "ENOENT"),
    (0, Op.READ, b"tool\0", "ENOENT"),
    # WRITE
    (1, Op.WRITE, b"data/x\0value", OK),
    (1, Op.WRITE, b"data/x\0", OK),
    (1, Op.WRITE, b"data/x\0a\0b\0", OK),
    (1, Op.WRITE, b"data/deep/er/still\0v", OK),
    (1, Op.WRITE, b"name\0other", "EACCES"),
    (1, Op.WRITE, b"new\0v", "EACCES"),
    (1, Op.WRITE, b"/secret/key\0v", "EACCES"),
    (1, Op.WRITE, b"/secret/new\0v", "EACCES"),
    (1, Op.WRITE, b"data/x", "EINVAL"),
    (1, Op.WRITE, b"", "EINVAL"),
    (1, Op.WRITE, b"data/\0v", "EINVAL"),
    (1, Op.WRITE, b"data/x\0" + bytes(2049), "ENOSPC"),
    (0, Op.WRITE, b"/data/x\0" + bytes(2049), OK),
    (0, Op.WRITE, b"/new/one\0v", OK),
    (0, Op.WRITE, b"@releaseDomain\0v", "EINVAL"),
    # MKDIR
    (1, Op.MKDIR, b"data/dir\0", OK),
    (1, Op.MKDIR, b"data\0", OK),
    (1, Op.MKDIR, b"name\0", "EACCES"),
    (1, Op.MKDIR, b"dir\0", "EACCES"),
    (1, Op.MKDIR, b"data/dir", "EINVAL"),
    (0, Op.MKDIR, b"/some/where\0", OK),
    # RM
    (1, Op.RM, b"data/nothing\0", OK),
    (1, Op.RM, b"data/nothing/at/all\0", "ENOENT"),
    (1, Op.RM, b"data\0", OK),
    (1, Op.RM, b"name\0", "EACCES"),
    (1, Op.RM, b"/\0", "EACCES"),
    (0, Op.RM, b"/\0", "EINVAL"),
    (0, Op.RM, b"/secret\0", OK),
    (0, Op.RM, b"/nothing\0", OK),
    (0, Op.RM, b"/nothing/there\0", "ENOENT"),
    (0, Op.RM, b"/secret", "EINVAL"),
    # DIRECTORY
    (1, Op.DIRECTORY, b"/local/domain/1\0", b"name\0data\0"),
    (1, Op.DIRECTORY, b"name\0", b""),
    (1, Op.DIRECTORY, b"nothing\0", "ENOENT"),
    (1, Op.DIRECTORY, b"/\0", "EACCES"),
    (1, Op.DIRECTORY, b"", "EINVAL"),
    (0, Op.DIRECTORY, b"/\0", b"tool\0local\0secret\0"),
    # GET_PERMS
    (1, Op.GET_PERMS, b"name\0", b"n0\0r1\0"),
    (1, Op.GET_PERMS, b"data\0", b"n1\0"),
    (1, Op.GET_PERMS, b"/secret\0", "EACCES"),
    (1, Op.GET_PERMS, b"@releaseDomain\0", b"n0\0r32757\0"),
    (1, Op.GET_PERMS, b"@introduceDomain\0", "EACCES"),
    (0, Op.GET_PERMS, b"@introduceDomain\0", b"n0\0"),
    (0, Op.GET_PERMS, b"@nothing\0", "ENOENT"),
    # SET_PERMS
    (1, Op.SET_PERMS, b"data\0n1\0r0\0", OK),
    (1, Op.SET_PERMS, b"data\0b0\0", "EPERM"),
    (1, Op.SET_PERMS, b"data\0n7\0", "ENOENT"),
    (1, Op.SET_PERMS, b"data\0n1\0r7\0", OK),
    (1, Op.SET_PERMS, b"name\0n0\0b1\0", "EACCES"),
    (1, Op.SET_PERMS, b"data\0", "EINVAL"),
    (1, Op.SET_PERMS, b"data\0x1\0", "EINVAL"),
    (1, Op.SET_PERMS, b"data\0n1", "EINVAL"),
    (1, Op.SET_PERMS, b"data\0" + b"n1\0" * 5, OK),
    (1, Op.SET_PERMS, b"data\0" + b"n1\0" * 6, "ENOSPC"),
    (1, Op.SET_PERMS, b"data/nothing\0n1\0", "ENOENT"),
    (1, Op.SET_PERMS, b"@releaseDomain\0n1\0", "EACCES"),
    (0, Op.SET_PERMS, b"/secret\0n7\0r8\0", OK),
    (0, Op.SET_PERMS, b"/secret\0" + b"n1\0" * 6, OK),
    (0, Op.SET_PERMS, b"@introduceDomain\0n0\0r1\0", OK),
    # WATCH and UNWATCH
    (1, Op.WATCH, b"data\0token\0", OK),
    (1, Op.WATCH, b"/secret\0token\0", OK),
    (1, Op.WATCH, b"@releaseDomain\0token\0", OK),
    (1, Op.WATCH, b"data\0token\x001\0", OK),
    (1, Op.WATCH, b"data\0token\0-1\0", "EINVAL"),
    (1, Op.WATCH, b"data\0token", "EINVAL"),
    (1, Op.WATCH, b"data\0", "EINVAL"),
    (1, Op.WATCH, b"data\0token\x00some\0", OK),
    (1, Op.WATCH, b"data\0a\x001\0more\0", "EINVAL"),
    (1, Op.WATCH, b"da ta\0token\0", "EINVAL"),
    (1, Op.UNWATCH, b"data\0token\0", "ENOENT"),
    (1, Op.UNWATCH, b"data\0", "EINVAL"),
    (1, Op.UNWATCH, b"da ta\0token\0", "EINVAL"),
    (1, Op.RESET_WATCHES, b"\0", OK),
    # transactions
    (1, Op.TRANSACTION_START, b"\0", b"1\0"),
    (1, Op.TRANSACTION_END, b"T\0", "ENOENT"),
    (1, Op.TRANSACTION_END, b"F\0", "ENOENT"),
    (1, Op.TRANSACTION_END, b"X\0", "EINVAL"),
    (1, Op.TRANSACTION_END, b"", "EINVAL"),
    # domains
    (1, Op.GET_DOMAIN_PATH, b"1\0", b"/local/domain/1\0"),
    (1, Op.GET_DOMAIN_PATH, b"007\0", b"/local/domain/7\0"),
    (1, Op.GET_DOMAIN_PATH, b"65536\0", "EINVAL"),
    (1, Op.GET_DOMAIN_PATH, b"one\0", "EINVAL"),
    (1, Op.GET_DOMAIN_PATH, b"-1\0", "EINVAL"),
    (1, Op.GET_DOMAIN_PATH, b"1x\0", "EINVAL"),
    (1, Op.GET_DOMAIN_PATH, b" +1\0", b"/local/domain/1\0"),
    (1, Op.GET_DOMAIN_PATH, b"\0", b"/local/domain/0\0"),
    (1, Op.GET_DOMAIN_PATH, b"", "EINVAL"),
    (0, Op.INTRODUCE, b"2\x00100\x005\0", OK),
    (0, Op.INTRODUCE, b"1\x00100\x005\0", OK),
    (0, Op.INTRODUCE, b"2\x00100\x005\0more\0", OK),
    (0, Op.INTRODUCE, b"2\x00-100\x005\0", OK),
    (0, Op.INTRODUCE, b"2\x00100\x000\0", "EINVAL"),
    (0, Op.INTRODUCE, b"2\x00100\x00-1\0", "EINVAL"),
    (0, Op.INTRODUCE, b"2\x00100\x00x\0", "EINVAL"),
    (0, Op.INTRODUCE, b"65536\x00100\x005\0", "EINVAL"),
    (0, Op.INTRODUCE, b"x\x00100\x005\0", "EINVAL"),
    (0, Op.INTRODUCE, b"2\x00100\0", "EINVAL"),
    (0, Op.INTRODUCE, b"2\x00100\x005", "EINVAL"),
    (0, Op.INTRODUCE, b"", "EINVAL"),
    (0, Op.RELEASE, b"1\0", OK),
    (0, Op.RELEASE, b"2\0", "ENOENT"),
    (0, Op.RELEASE, b"0\0", "EINVAL"),
    (0, Op.RELEASE, b"x\0", "EINVAL"),
    (0, Op.RELEASE, b"1", "EINVAL"),
    (0, Op.RESUME, b"1\0", OK),
    (0, Op.RESUME, b"2\0", "ENOENT"),
    (0, Op.RESUME, b"0\0", "EINVAL"),
    (0, Op.RESUME, b"", "EINVAL"),
    (0, Op.SET_TARGET, b"1\x000\0", OK),
    (0, Op.SET_TARGET, b"1\x002\0", "ENOENT"),
    (0, Op.SET_TARGET, b"2\x001\0", "ENOENT"),
    (0, Op.SET_TARGET, b"1\0x\0", "EINVAL"),
    (0, Op.SET_TARGET, b"1\0", "EINVAL"),
    # features and quotas
    (0, Op.GET_FEATURE, b"", b"%d\0" % FEATURES),
    (0, Op.GET_FEATURE, b"1\0", b"%d\0" % FEATURES),
    (0, Op.GET_FEATURE, b"2\0", "ENOENT"),
    (0, Op.GET_FEATURE, b"x\0", "EINVAL"),
    (0, Op.GET_FEATURE, b"1\x001\0", "EINVAL"),
    (0, Op.SET_FEATURE, b"1\x000\0", "EBUSY"),
    (0, Op.SET_FEATURE, b"2\x000\0", "ENOENT"),
    (0, Op.SET_FEATURE, b"9\x002\0", OK),
    (0, Op.SET_FEATURE, b"9\x0016\0", "EINVAL"),
    (0, Op.SET_FEATURE, b"9\x00-1\0", "EINVAL"),
    (0, Op.SET_FEATURE, b"9\0", "EINVAL"),
    (0, Op.SET_FEATURE, b"9\x001\x001\0", "EINVAL"),
    (0, Op.GET_QUOTA, b"nodes\0", b"1000\0"),
    (0, Op.GET_QUOTA, b"watches\0", b"128\0"),
    (0, Op.GET_QUOTA, b"outstanding\0", b"20\0"),
    (0, Op.GET_QUOTA, b"memory\0", b"2621440\0"),
    (0, Op.GET_QUOTA, b"soft-memory\0", b"2097152\0"),
    (0, Op.GET_QUOTA, b"transactions\0", b"10\0"),
    (0, Op.GET_QUOTA, b"transaction-nodes\0", b"1024\0"),
    (0, Op.GET_QUOTA, b"node-permissions\0", b"5\0"),
    (0, Op.GET_QUOTA, b"path-max\0", b"2048\0"),
    (0, Op.GET_QUOTA, b"1\0node-size\0", b"2048\0"),
    (0, Op.GET_QUOTA, b"2\0nodes\0", "ENOENT"),
    (0, Op.GET_QUOTA, b"x\0nodes\0", "EINVAL"),
    (0, Op.GET_QUOTA, b"none\0", "EINVAL"),
    (0, Op.GET_QUOTA, b"soft-nodes\0", "EINVAL"),
    (0, Op.GET_QUOTA, b"1\0nodes\0more\0", "EINVAL"),
    (0, Op.SET_QUOTA, b"nodes\x005\0", OK),
    (0, Op.SET_QUOTA, b"1\0nodes\x005\0", OK),
    (0, Op.SET_QUOTA, b"1\0nodes\x000\0", OK),
    (0, Op.SET_QUOTA, b"1\0nodes\x00-1\0", "EINVAL"),
    (0, Op.SET_QUOTA, b"2\0nodes\x005\0", "ENOENT"),
    (0, Op.SET_QUOTA, b"none\x005\0", "EINVAL"),
    (0, Op.SET_QUOTA, b"nodes\0", "EINVAL"),
    (0, Op.SET_QUOTA, b"1\0nodes\x005\0more\0", "EINVAL"),
    # CONTROL
    (0, Op.CONTROL, b"check\0", OK),
    (0, Op.CONTROL, b"check\0now\0", "EINVAL"),
    (0, Op.CONTROL, b"help\0now\0", "EINVAL"),
    (0, Op.CONTROL, b"log\0on\0", OK),
    (0, Op.CONTROL, b"log\0off\0", OK),
    (0, Op.CONTROL, b"log\0", "EINVAL"),
    (0, Op.CONTROL, b"log\0+io\0", "EINVAL"),
    (0, Op.CONTROL, b"logfile\0/tmp/log\0", "EINVAL"),
    (0, Op.CONTROL, b"memreport\0", "EINVAL"),
    (0, Op.CONTROL, b"dance\0", "EINVAL"),
    (0, Op.CONTROL, b"check", "EINVAL"),
    (0, Op.CONTROL, b"", "EINVAL"),
    (0, Op.CONTROL, b"quota\0set\0nodes\x005\0", OK),
    (0, Op.CONTROL, b"quota\0set\0nodes\x000\0", "EINVAL"),
    (0, Op.CONTROL, b"quota\0set\0none\x005\0", "EINVAL"),
    (0, Op.CONTROL, b"quota\0set\0nodes\0", "EINVAL"),
    (0, Op.CONTROL, b"quota\x007\0", "ENOENT"),
    (0, Op.CONTROL, b"quota\x001\x001\0", "EINVAL"),
    (0, Op.CONTROL, b"quota\0max\0-x\0", "EINVAL"),
    (0, Op.CONTROL, b"quota-soft\0set\0memory\x005\0", OK),
    (0, Op.CONTROL, b"quota-soft\0set\0nodes\x005\0", "EINVAL"),
    (0, Op.CONTROL, b"quota-soft\0max\0", "EINVAL"),
    (1, Op.GET_DOMAIN_PATH, b"1", "EINVAL"),
    (0, Op.IS_DOMAIN_INTRODUCED, b"1\0", b"T\0"),
    (0, Op.IS_DOMAIN_INTRODUCED, b"0\0", b"T\0"),
    (0, Op.IS_DOMAIN_INTRODUCED, b"2\0", b"F\0"),
    (0, Op.IS_DOMAIN_INTRODUCED, b"32752\0", b"T\0"),
    (0, Op.IS_DOMAIN_INTRODUCED, b"x\0", "EINVAL"),
    (1, Op.GET_FEATURE, b"", b"%d\0" % FEATURES),
    (1, Op.GET_FEATURE, b"0\0", "EACCES"),
    # requests that only dom0 may make, and that nobody can
    (1, Op.IS_DOMAIN_INTRODUCED, b"1\0", "EACCES"),
    (1, Op.CONTROL, b"help\0", "EACCES"),
    (1, Op.INTRODUCE, b"2\x001\x001\0", "EACCES"),
    (1, Op.RELEASE, b"2\0", "EACCES"),
    (1, Op.RESUME, b"2\0", "EACCES"),
    (1, Op.SET_TARGET, b"1\x002\0", "EACCES"),
    (1, Op.SET_FEATURE, b"1\x000\0", "EACCES"),
    (1, Op.GET_QUOTA, b"", "EACCES"),
    (1, Op.SET_QUOTA, b"nodes\x000\0", "EACCES"),
    (1, Op.WATCH_EVENT, b"a\0b\0", "ENOSYS"),
    (1, Op.ERROR, b"EIO\0", "ENOSYS"),
    (1, 20, b"1\0", "ENOSYS"),
    (1, 27, b"", "ENOSYS"),
    (1, 0xFFFF, b"", "ENOSYS"),
    (1, 0xFFFFFFFF, b"", "ENOSYS"),
]


# A domain that dom0 named in a permission but has not introduced yet.
NAMED = Permission(9)


@pytest.fixture(autouse=True)
def _name_a_domain(store: Store) -> None:
    store.set_permissions("/secret", Permission(0), NAMED)


@pytest.mark.parametrize(("who", "operation", "payload", "answer"), ANSWERS)
def test_answer(store: Store, who: int, operation: int, payload: bytes, answer: object) -> None:
    assert Client(store.state, who).ask(operation, payload) == answer


@pytest.mark.parametrize(("who", "operation", "payload", "answer"), ANSWERS)
def test_answer_in_a_transaction(
    store: Store, who: int, operation: int, payload: bytes, answer: object
) -> None:
    client = Client(store.state, who)
    tx = client.start()
    if operation == Op.TRANSACTION_START:
        answer = "EBUSY"
    elif operation == Op.TRANSACTION_END and payload in (b"T\0", b"F\0"):
        answer = OK
    assert client.ask(operation, payload, tx) == answer


# The right that each needs on a node, or on its parent if it creates the node; the owner's.
WANTS = [
    (Op.READ, b"/it\0", "r"),
    (Op.DIRECTORY, b"/it\0", "r"),
    (Op.DIRECTORY_PART, b"/it\x000\0", "r"),
    (Op.GET_PERMS, b"/it\0", "r"),
    (Op.WRITE, b"/it\0value", "w"),
    (Op.WRITE, b"/it/new\0value", "w"),
    (Op.WRITE, b"/it/very/new\0value", "w"),
    (Op.MKDIR, b"/it\0", "w"),
    (Op.MKDIR, b"/it/new\0", "w"),
    (Op.RM, b"/it\0", "w"),
    (Op.RM, b"/it/new\0", "w"),
    (Op.SET_PERMS, b"/it\0n1\0", "owner"),
]
HAVING = {"n": "", "r": "r", "w": "w", "b": "rw"}


@pytest.mark.parametrize(("operation", "payload", "wanted"), WANTS)
@pytest.mark.parametrize("letter", HAVING)
@pytest.mark.parametrize("inside", [False, True])
def test_who_may_do_what(
    store: Store, operation: Op, payload: bytes, wanted: str, letter: str, inside: bool
) -> None:
    allowed = {
        f"{letter}0": wanted in HAVING[letter],
        f"n0 {letter}1": wanted in HAVING[letter],
        f"n0 {letter}{DOMID_ANY}": wanted in HAVING[letter],
        f"b0 n1 {letter}1": False,
        f"{letter}0 n1": False,
        f"n0 {letter}7": False,
        f"{letter}1": True,
        f"{letter}1 n0 n1": True,
    }
    for permissions, may in allowed.items():
        store.write("/it", b"")
        store.set_permissions("/it", *(Permission.decode(p.encode()) for p in permissions.split()))
        client = Client(store.state, 1)
        tx = client.start() if inside else 0
        answer = client.ask(operation, payload, tx)
        assert (answer != "EACCES") == may, permissions
        assert isinstance(answer, bytes) == may, permissions
        client.connection.close()
        store.rm("/it")


@pytest.mark.parametrize("operation", sorted(set(Op) - {Op.WATCH_EVENT, Op.ERROR}))
def test_a_transaction_that_is_not_is_noticed(dom0: Client, operation: Op) -> None:
    answer = dom0.ask(operation, b"/\0", 77)
    if operation in (Op.WATCH, Op.UNWATCH):
        assert answer == "EINVAL"
    else:
        assert answer == "ENOENT"


def test_golden_bytes(store: Store) -> None:
    connection = Client(store.state, 1).connection
    connection.feed(HEADER.pack(Op.READ, 9, 0, 5) + b"name\0")
    assert connection.take(100) == HEADER.pack(Op.READ, 9, 0, 5) + b"guest"
    connection.feed(HEADER.pack(Op.READ, 10, 0, 5) + b"nope\0")
    assert connection.take(100) == HEADER.pack(Op.ERROR, 10, 0, 7) + b"ENOENT\0"
    connection.feed(HEADER.pack(Op.WATCH, 11, 5, 7) + b"name\0t\0")
    assert connection.take(100) == (
        HEADER.pack(Op.WATCH, 11, 5, 3)
        + b"OK\0"
        + HEADER.pack(Op.WATCH_EVENT, 0, 0, 7)
        + b"name\0t\0"
    )


def test_written_values_are_read_back_binary_and_all(guest: Client) -> None:
    value = bytes(range(256))
    assert guest.ask(Op.WRITE, b"data/bin\0" + value) == OK
    assert guest.ask(Op.READ, b"data/bin\0") == value


def test_a_guest_owns_what_it_makes_and_dom0_inherits(
    store: Store, guest: Client, dom0: Client
) -> None:
    guest.ask(Op.SET_PERMS, b"data\0n1\0r0\0")
    guest.ask(Op.WRITE, b"data/a/b\0v")
    assert guest.ask(Op.GET_PERMS, b"data/a\0") == b"n1\0r0\0"
    dom0.ask(Op.WRITE, b"/local/domain/1/data/c\0v")
    assert guest.ask(Op.GET_PERMS, b"data/c\0") == b"n1\0r0\0"
    dom0.ask(Op.SET_PERMS, b"/secret\0b0\0")
    guest.ask(Op.WRITE, b"/secret/mine\0v")
    assert guest.ask(Op.GET_PERMS, b"/secret/mine\0") == b"b1\0"


def test_implicit_parents_have_no_value(guest: Client) -> None:
    guest.ask(Op.WRITE, b"data/a/b/c\0v")
    assert guest.ask(Op.READ, b"data/a\0") == b""
    assert guest.ask(Op.DIRECTORY, b"data/a\0") == b"b\0"
    assert guest.ask(Op.READ, b"data/a/b/c\0") == b"v"


def test_mkdir_leaves_what_is_there(guest: Client) -> None:
    guest.ask(Op.WRITE, b"data/a\0v")
    assert guest.ask(Op.MKDIR, b"data/a\0") == OK
    assert guest.ask(Op.READ, b"data/a\0") == b"v"


def test_a_permission_for_a_domain_that_is_not_gives_nothing_later(
    store: Store, guest: Client
) -> None:
    guest.ask(Op.SET_PERMS, b"data\0n1\0b7\0")
    store.state.introduce(7)
    assert Client(store.state, 7).ask(Op.READ, b"/local/domain/1/data\0") == "EACCES"


def test_a_directory_too_long_for_a_reply_comes_in_parts(store: Store, dom0: Client) -> None:
    names = [b"child-%04d" % i for i in range(1000)]
    for name in names:
        store.write(f"/many/{name.decode()}", b"")
    assert dom0.ask(Op.DIRECTORY, b"/many\0") == "E2BIG"
    found, generations = b"", set()
    for _ in range(10):
        part = dom0.ask(Op.DIRECTORY_PART, b"/many\0%d\0" % len(found))
        assert isinstance(part, bytes)
        assert len(part) <= 4096
        generation, _, listing = part.partition(b"\0")
        generations.add(generation)
        assert listing.endswith(b"\0")
        if listing.endswith(b"\0\0"):
            found += listing[:-1]
            break
        found += listing
    assert found.split(b"\0")[:-1] == names
    assert len(generations) == 1
    store.write("/many/another", b"")
    part = dom0.ask(Op.DIRECTORY_PART, b"/many\x000\0")
    assert isinstance(part, bytes)
    assert part.partition(b"\0")[0] not in generations


@pytest.mark.parametrize(
    ("payload", "listing"),
    [
        (b"/local/domain/1\x000\0", b"name\0data\0\0"),
        (b"/local/domain/1\x005\0", b"data\0\0"),
        (b"/local/domain/1\x0010\0", b"\0"),
        (b"/local/domain/1\x00999999999\0", b"\0"),
        (b"/local/domain/1\x00-1\0", b"\0"),
        (b"/local/domain/1\x0099999999999999999999\0", b"\0"),
        (b"/local/domain/1\0x\0", b"name\0data\0\0"),
        (b"name\x000\0", b"\0"),
    ],
)
def test_directory_part(guest: Client, payload: bytes, listing: bytes) -> None:
    part = guest.ask(Op.DIRECTORY_PART, payload)
    assert isinstance(part, bytes)
    assert part.partition(b"\0")[2] == listing


@pytest.mark.parametrize("size", range(4060, 4096))
def test_directory_part_at_its_limit(store: Store, dom0: Client, size: int) -> None:
    """A listing of about the longest length that a reply can hold, whole or cut between two
    names."""
    store.mkdir("/edge")
    left = size
    while left:
        length = min(left, 400) if left - 400 != 1 else 399
        store.mkdir(f"/edge/n{left}" + "x" * (length - 2 - len(str(left))) if length > 6 else "/z")
        left -= length
    listing = dom0.ask(Op.DIRECTORY, b"/edge\0")
    assert isinstance(listing, bytes)
    found = b""
    for _ in range(3):
        part = dom0.ask(Op.DIRECTORY_PART, b"/edge\0%d\0" % len(found))
        assert isinstance(part, bytes)
        assert len(part) <= 4096
        piece = part.partition(b"\0")[2]
        if piece.endswith(b"\0\0") or piece == b"\0":
            found += piece[:-1]
            break
        found += piece
    assert found == listing


@pytest.mark.parametrize("payload", [b"name\0", b"name\x000", b"name\x000\x001\0"])
def test_directory_part_refuses(guest: Client, payload: bytes) -> None:
    assert guest.ask(Op.DIRECTORY_PART, payload) == "EINVAL"


def test_every_valid_operation_answers_any_payload_with_something(store: Store) -> None:
    for operation in Op:
        for payload in (b"", b"\0", b"\0\0", b"a", bytes(4096), b"\xff" * 4096, b"/\0" * 2048):
            for who in (0, 1):
                answer = Client(store.state, who).ask(operation, payload)
                assert isinstance(answer, bytes | str)
