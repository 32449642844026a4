"""A store that outlives its process: every prefix of the file, every kind of end, SIGKILL."""

from __future__ import annotations

import errno
import os
import random
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import Buffer

from kvmxen.backends.xenbus import Xenbus
from kvmxen.errors import KvmxenError
from kvmxen.xen.abi.layouts import xs_state
from kvmxen.xen.abi.xs_wire import Operation as Op
from kvmxen.xenstore.connection import Connection
from kvmxen.xenstore.control import inconsistencies
from kvmxen.xenstore.errors import XenstoreError
from kvmxen.xenstore.nodes import populate
from kvmxen.xenstore.paths import ancestry
from kvmxen.xenstore.permissions import DOMID_ANY, NONE, READ, WRITE, Permission, Permissions
from kvmxen.xenstore.server.entries import (
    MAGIC,
    MAGIC_1,
    Tail,
    decode,
    encode,
    entries,
    replay,
    seal,
)
from kvmxen.xenstore.server.journal import Journal
from kvmxen.xenstore.store import Store
from kvmxen.xenstore.wire import Message
from tests.unit.backends.fake_domain import FakeDomain, wait_until
from tests.unit.backends.test_xenbus import BACK, Recorder

Nodes = dict[str, tuple[bytes, Permissions]]


def nodes(store: Store) -> Nodes:
    return {path: (node.value, node.permissions) for path, node in store.state.descend()}


def kept(path: Path) -> Nodes:
    """The nodes that another process finds in the file."""
    store = Store()
    with Journal(path) as journal:
        journal.attach(store.state)
        assert inconsistencies(store.state) == []
        return nodes(store)


def populated(path: Path) -> Nodes:
    """A file with some entries; returns its nodes."""
    store = Store()
    with Journal(path) as journal:
        journal.attach(store.state)
        for _ in changes(store):
            pass
        store.write("/last", b"")
        return nodes(store)


def reread(path: Path) -> dict[str, bytes]:
    """The file's current contents, by its entries alone."""
    store = Store()
    assert replay(path.read_bytes(), store.state).tail is Tail.TORN
    return {where: node.value for where, node in store.state.descend()}


def ask(client: Connection, operation: Op, payload: bytes, tx: int = 0) -> bytes:
    """The payload of the answer to a request."""
    client.take(1 << 20)
    client.feed(Message(operation, 1, tx, payload).encode())
    return client.take(1 << 20)[16:]


def populate_for_tests(store: Store) -> None:
    populate(
        store,
        domid=1,
        name="web",
        uuid="uuid",
        memory_kib=1,
        max_memory_kib=1,
        vcpus=1,
        max_vcpus=1,
        console_mfn=1,
        console_port=1,
        store_mfn=1,
        store_port=1,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_what_was_written_is_there_again(path: Path) -> None:
    store = Store()
    with Journal(path) as journal:
        journal.attach(store.state)
        store.write("/a/b/c", bytes(range(256)))
        store.write("/a/gone", b"")
        store.rm("/a/gone")
        store.set_permissions("/a/b", Permission(0, WRITE), Permission(DOMID_ANY, READ))
        store.set_permissions("@releaseDomain", Permission(0, READ))
        store.rm("/tool")
        with store.transaction() as several:
            several.write("/a/x", b"1")
            several.write("/a/y", b"2")
        client = store.connect()
        client.feed(Message(Op.WRITE, 1, 0, b"/client\0value").encode())
        expected = nodes(store)
    store.write("/too/late", b"")
    assert kept(path) == expected
    assert kept(path) == expected
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_reboot_goes_on_with_the_file(path: Path) -> None:
    """Each run of a domain has its own store; all share one file."""
    with Journal(path) as journal:
        first, second = Store(), Store()
        journal.attach(first.state)
        first.write("/first", b"1")
        journal.attach(second.state)
        assert second.read("/first") == b"1"
        first.write("/too/late", b"")
        second.write("/second", b"2")
        expected = nodes(second)
    assert kept(path) == expected


def test_what_was_a_guest_s_goes_with_it(path: Path) -> None:
    store = Store()
    with Journal(path) as journal:
        journal.attach(store.state)
        store.write("/own/deep", b"v")
        store.write("/shared", b"v")
        store.set_permissions("/own", Permission(1))
        store.set_permissions("/shared", Permission(0), Permission(1, READ), Permission(2, READ))
    found = kept(path)
    assert "/own" not in found
    assert "/own/deep" not in found
    assert found["/shared"] == (b"v", (Permission(0),))


def test_what_is_a_guest_s_or_of_one_run_is_not_in_the_file(path: Path) -> None:
    store = Store()
    with Journal(path) as journal:
        journal.attach(store.state)
        populate_for_tests(store)
        store.write("/own", b"")
        store.set_permissions("/own", Permission(1))
        store.write("/shared/deep", b"")
        size = path.stat().st_size
        guest = store.connect(1)
        ask(guest, Op.WRITE, b"/own/private\0v")
        ask(guest, Op.WRITE, b"data/x\0v")
        ask(guest, Op.RM, b"data/x\0")
        store.write("/local/domain/1/device/vif/0/state", b"4")
        store.write("/local/domain/0/backend/vif/1/0/state", b"4")
        store.write("/local/domain/0/error/backend/vif/1/0/error", b"-5")
        store.write("/vm/uuid/name", b"other")
        store.set_permissions("/own/private", Permission(0))
        # A node that does not change needs no room either.
        store.write("/shared/deep", b"")
        assert path.stat().st_size == size
    assert set(kept(path)) - set(nodes(Store())) == {
        "/local", "/local/domain", "/local/domain/0", "/local/domain/0/name",
        "/local/domain/0/domid", "/shared", "/shared/deep",
    }  # fmt: skip


def test_who_owns_a_node_decides_for_all_below_it(path: Path) -> None:
    store = Store()
    with Journal(path) as journal:
        journal.attach(store.state)
        for name in ("x", "x/y", "guest", "guest/z"):
            store.write(f"/a/{name}", name.encode())
        store.set_permissions("/a/guest", Permission(2))
        store.set_permissions("/a", Permission(1))
        assert "/a" not in reread(path)
        store.write("/a/x", b"new")
        assert "/a" not in reread(path)
        store.set_permissions("/a", Permission(0))
        expected = {"/a": b"", "/a/x": b"new", "/a/x/y": b"x/y"}
        assert {p: value for p, value in reread(path).items() if p[:2] == "/a"} == expected
        store.set_permissions("/", Permission(1))
        store.write("/b", b"1")
        assert "/b" not in reread(path)
        store.set_permissions("/b", Permission(0))
        assert reread(path)["/b"] == b"1"


class Disk:
    """Controls the writes to the journal's files: the file itself, and those beside it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.code = 0
        self.beside = True
        self.room = 0
        self.journal: Journal | None = None
        self._pwrite = os.pwrite
        self.now = 0.0
        monkeypatch.setattr("kvmxen.xenstore.server.journal.os.pwrite", self._write)
        monkeypatch.setattr("kvmxen.xenstore.server.journal.monotonic", lambda: self.now)

    def _write(self, fd: int, data: Buffer, offset: int) -> int:
        itself = self.journal is not None and fd == self.journal._fd
        if self.code and (itself or self.beside):
            if self.room:
                done = self._pwrite(fd, memoryview(data)[: self.room], offset)
                self.room = 0
                return done
            raise OSError(self.code, os.strerror(self.code))
        return self._pwrite(fd, data, offset)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def of_the_next_run(store: Store) -> dict[str, bytes]:
    """The nodes of dom0 whose ancestors are all dom0's, without those of a single run."""
    found: dict[str, bytes] = {}
    for where, node in store.state.descend():
        above = [] if where in ("/", "@introduceDomain", "@releaseDomain") else ancestry(where)[:-1]
        owners = {found_node.owner for each in above if (found_node := store.state.get(each))}
        if owners <= {0} and not re.match("(/vm|/local/domain/(1|0/backend|0/error))(/|$)", where):
            found[where] = node.value
    return found


@pytest.mark.parametrize("seed", range(10))
def test_after_each_request_the_file_is_what_the_next_run_finds(
    path: Path, disk: Disk, seed: int
) -> None:
    choice, store = random.Random(seed), Store()
    paths = [
        b"/a",
        b"/a/b",
        b"/a/b/c",
        b"/a/d",
        b"/vm/x",
        b"/local/domain/1/x",
        b"/local/domain/0/x",
    ]
    permissions = [b"n0\0", b"n0\0", b"n1\0", b"n0\0b1\0", b"n2\0", b"b0\0"]
    with Journal(path, slack=500) as disk.journal:
        disk.journal.attach(store.state)
        store.state.introduce(1)
        clients = [store.connect(domid) for domid in (0, 0, 1)]
        for _ in range(300):
            disk.code = choice.choice((0, 0, 0, errno.ENOSPC))
            disk.room, disk.beside = choice.choice((0, 15)), choice.random() < 0.8
            client = choice.choice(clients)
            many = choice.random() < 0.3
            tx = int(ask(client, Op.TRANSACTION_START, b"\0")[:-1]) if many else 0
            for _ in range(4 if many else 1):
                node = choice.choice(paths) + b"\0"
                match choice.randrange(6):
                    case 0:
                        ask(client, Op.RM, node, tx)
                    case 1 | 2:
                        ask(client, Op.SET_PERMS, node + choice.choice(permissions), tx)
                    case _:
                        ask(client, Op.WRITE, node + choice.randbytes(choice.randrange(40)), tx)
            if many:
                ask(client, Op.TRANSACTION_END, b"T\0", tx)
            disk.code = 0
            assert reread(path) == of_the_next_run(store)
            assert inconsistencies(store.state) == []
        expected = of_the_next_run(store)
    assert {where: value for where, (value, _) in kept(path).items()} == expected


def test_a_path_as_long_as_a_client_may_say_it(path: Path) -> None:
    store, long = Store(), "/" + "x/" * 1500 + "x"
    with Journal(path) as journal:
        journal.attach(store.state)
        assert ask(store.connect(), Op.WRITE, long.encode() + b"\0v") == b"OK\0"
    assert kept(path)[long][0] == b"v"


@pytest.mark.parametrize(
    ("code", "answer"),
    [(errno.ENOSPC, b"ENOSPC\0"), (errno.EDQUOT, b"ENOSPC\0"), (errno.EIO, b"EIO\0")],
)
@pytest.mark.parametrize("room", [0, 10])
def test_what_cannot_be_kept_is_refused_and_was_never_done(
    path: Path,
    disk: Disk,
    capfd: pytest.CaptureFixture[str],
    code: int,
    answer: bytes,
    room: int,
) -> None:
    store = Store()
    with Journal(path) as disk.journal:
        disk.journal.attach(store.state)
        client = store.connect()
        for node in (b"/a/b", b"/gone/x", b"/p"):
            ask(client, Op.WRITE, node + b"\0v")
        before = nodes(store)
        for _ in range(2):
            disk.code, disk.room = code, room
            assert ask(client, Op.WRITE, b"/a/b\0new") == answer
            assert ask(client, Op.WRITE, b"/n/e/w\0") == answer
            assert ask(client, Op.RM, b"/gone\0") == answer
            assert ask(client, Op.SET_PERMS, b"/p\0n0\0r1\0") == answer
            tx = int(ask(client, Op.TRANSACTION_START, b"\0")[:-1])
            ask(client, Op.WRITE, b"/a/c\0", tx)
            ask(client, Op.RM, b"/gone\0", tx)
            ask(client, Op.WRITE, b"/gone/y\0", tx)
            assert ask(client, Op.TRANSACTION_END, b"T\0", tx) == answer
            with pytest.raises(XenstoreError):
                store.write("/a/c", b"")
            with pytest.raises(XenstoreError), store.transaction() as several:
                several.rm("/a")
            assert nodes(store) == before
            assert inconsistencies(store.state) == []
            assert reread(path) == {p: value for p, (value, _) in before.items()}
            # Only once, unless that was long ago.
            assert capfd.readouterr().err.count("are refused until it can") == 1
            disk.now += 3600
            disk.code = 0
            assert ask(client, Op.WRITE, b"/a/b\0again") == b"OK\0"
            before = nodes(store)
    assert kept(path) == before


def test_a_file_that_starts_afresh_may_have_room(path: Path, disk: Disk) -> None:
    store = Store()
    with Journal(path) as disk.journal:
        disk.journal.attach(store.state)
        for i in range(50):
            store.write("/a", b"%d" % i)
        size = path.stat().st_size
        disk.code, disk.beside = errno.ENOSPC, False
        assert ask(store.connect(), Op.WRITE, b"/b\0v") == b"OK\0"
        assert path.stat().st_size < size
        expected = nodes(store)
    assert kept(path) == expected


def stands(domain: FakeDomain, state: int) -> bool:
    return domain.state(BACK) == state


def test_guests_and_backends_do_not_notice_a_full_disk(path: Path, disk: Disk) -> None:
    domain = FakeDomain()
    store = domain.store
    with Journal(path) as disk.journal:
        disk.journal.attach(store.state)
        populate_for_tests(store)
        disk.code = errno.ENOSPC
        populate_for_tests(store)
        guest = store.connect(1)
        with Xenbus(domain.peer) as bus:
            device = Recorder()
            bus.attach(device)
            state = b"device/vtest/3/state\0"
            for value, becomes in ((b"4", 4), (b"9", 5), (b"6", 6), (b"1", 2)):
                assert ask(guest, Op.WRITE, state + value) == b"OK\0"
                wait_until(partial(stands, domain, becomes))
            bus.remove("vtest", 3)
        assert ask(guest, Op.WRITE, b"data/x\0v") == b"OK\0"
        store.state.shut_down(1)
        store.state.release(1)
        store.state.introduce(1)
        assert domain.failures == []
        assert ask(store.connect(), Op.WRITE, b"/tool/x\0") == b"ENOSPC\0"


def test_a_domain_starts_with_its_file_on_a_full_disk(path: Path, disk: Disk) -> None:
    expected = populated(path)
    with path.open("ab") as file:
        file.write(bytes(20))
    disk.code = errno.ENOSPC
    assert kept(path) == expected
    path.unlink()
    with pytest.raises(KvmxenError, match="cannot be written: No space left on device; fix that"):
        kept(path)


def changes(store: Store) -> Iterator[None]:
    """Some requests, each of which makes one entry."""
    store.write("/a", b"1")
    yield
    store.write("/b/c", b"2" * 40)
    yield
    store.set_permissions("/b", Permission(0, READ))
    yield
    with store.transaction() as several:
        several.write("/a", b"3")
        several.rm("/b/c")
        several.mkdir("/d/e/f")
    yield
    store.rm("/d")
    yield
    store.write("/a", b"")
    yield


def test_every_prefix_of_the_file_is_a_prefix_of_the_requests(path: Path) -> None:
    store = Store()
    with Journal(path) as journal:
        journal.attach(store.state)
        stages = [(path.stat().st_size, nodes(store))]
        stages += [(path.stat().st_size, nodes(store)) for _ in changes(store)]
        data = path.read_bytes()
    assert len({size for size, _ in stages}) == len(stages) == 7
    for length in range(len(MAGIC), len(data) + 1):
        again = Store()
        assert replay(data[:length], again.state).tail is Tail.TORN
        assert inconsistencies(again.state) == []
        before = [found for size, found in stages if size <= length] or [nodes(Store())]
        assert nodes(again) == before[-1]
    path.write_bytes(data[:-1])
    assert kept(path) == stages[-2][1]


@pytest.mark.parametrize("length", [1, 8, 4096])
def test_a_tail_of_zeros_is_cut_off(path: Path, length: int) -> None:
    store = Store()
    with Journal(path) as journal:
        journal.attach(store.state)
        store.write("/a", b"1")
    with path.open("ab") as file:
        file.write(bytes(length))
    assert kept(path) == nodes(store)


def test_the_file_stays_small(path: Path) -> None:
    store = Store()
    with Journal(path, slack=1000) as journal:
        journal.attach(store.state)
        for i in range(500):
            store.write(f"/k/{i % 7}", b"%d" % i)
            assert path.stat().st_size < 5000
        expected = nodes(store)
    assert kept(path) == expected
    assert [entry.name for entry in path.parent.iterdir()] == ["store"]


def test_damage_is_not_taken_for_an_interrupted_write(path: Path) -> None:
    """A flipped bit anywhere is damage; the file stays unchanged, and the rest is safe."""
    populated(path)
    data = path.read_bytes()
    ends = [len(MAGIC)]
    for entry in entries(data):
        ends.append(ends[-1] + len(seal(entry)))
    choice = random.Random(1)
    for at in range(len(MAGIC), len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << choice.randrange(8)
        path.write_bytes(damaged)
        begin = max(end for end in ends if end <= at)
        with pytest.raises(KvmxenError, match=f"is damaged at byte {begin}: ") as refusal:
            kept(path)
        assert path.read_bytes() == damaged
        (aside,) = [p for p in path.parent.iterdir() if p.name.startswith("store.damaged-")]
        assert str(aside) in str(refusal.value)
        assert aside.read_bytes() == damaged[begin:]
        assert aside.stat().st_mode & 0o777 == 0o600
        # Once is enough.
        with pytest.raises(KvmxenError, match="is damaged at byte"):
            kept(path)
        aside.unlink()
    assert [p.name for p in path.parent.iterdir()] == ["store"]


@pytest.mark.parametrize(
    "entry",
    [
        encode("/a", b"v", (Permission(0),)).replace(b"n\0\0\0", b"\xa1\0\0\0"),
        encode("a", b"v", (Permission(0),)),
        encode("local/domain/0/a", b"v", (Permission(0),)),
        encode("/a//b", b"v", (Permission(0),)),
        encode("/no/parent", b"v", (Permission(0),)),
        encode("@other", b"v", (Permission(0),)),
        encode("/a", b"v", (Permission(0),))[:-8],
    ],
)
def test_nodes_that_nobody_writes_are_damage(path: Path, entry: bytes) -> None:
    populated(path)
    data = path.read_bytes()
    path.write_bytes(data + seal(entry))
    with pytest.raises(KvmxenError, match=f"is damaged at byte {len(data)}: "):
        kept(path)


def as_version_1(data: bytes) -> bytes:
    return MAGIC_1 + b"".join(
        struct.pack("<II", len(entry), crc32(entry)) + entry for entry in entries(data)
    )


def test_version_1_is_read_and_converted(path: Path) -> None:
    expected = populated(path)
    path.write_bytes(as_version_1(path.read_bytes()))
    assert kept(path) == expected
    assert path.read_bytes().startswith(MAGIC)
    assert kept(path) == expected
    assert [p.name for p in path.parent.iterdir()] == ["store"]


def test_version_1_may_end_anywhere(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing covers its lengths: the part that is cut off is kept, as it may be more than it
    seems."""
    populated(path)
    data = as_version_1(path.read_bytes())
    ends = [len(MAGIC_1)]
    for entry in entries(data):
        ends.append(ends[-1] + 8 + len(entry))
    for length in range(len(MAGIC_1), len(data)):
        path.write_bytes(data[:length])
        kept(path)
        begin = max(end for end in ends if end <= length)
        asides = [p for p in path.parent.iterdir() if p != path]
        said = capfd.readouterr().err
        if length - begin < 8:
            assert (asides, said) == ([], "")
        else:
            assert [p.read_bytes() for p in asides] == [data[begin:length]]
            assert str(asides[0]) in said
            asides[0].unlink()


def test_a_length_of_version_1_that_is_damaged(path: Path) -> None:
    populated(path)
    data = bytearray(as_version_1(path.read_bytes()))
    data[len(MAGIC_1) + 3] ^= 1
    path.write_bytes(data)
    kept(path)
    (aside,) = [p for p in path.parent.iterdir() if p != path]
    assert aside.read_bytes() == data[len(MAGIC_1) :]
    # A kill may have left half of it.
    aside.write_bytes(data[len(MAGIC_1) : -1])
    path.write_bytes(data)
    kept(path)
    (other,) = [p for p in path.parent.iterdir() if p not in (path, aside)]
    assert other.read_bytes() == data[len(MAGIC_1) :]


def test_other_files_beside_it_are_others(path: Path) -> None:
    """A file in the way of a name is never overwritten, and a kill's leftovers are removed."""
    others = {
        "store.new": b"another domain's",
        "store.new-0123": b"x",
        "xstore.new-" + "0" * 16: b"",
    }
    for name, content in others.items():
        (path.parent / name).write_bytes(content)
    (path.parent / ("store.new-" + "0" * 16)).write_bytes(b"half a file")
    populated(path)
    found = {p.name: p.read_bytes() for p in path.parent.iterdir() if p != path}
    assert found == others


def test_a_link_stays_one(path: Path, tmp_path: Path) -> None:
    link, other = tmp_path / "link", tmp_path / "other"
    link.symlink_to("other")
    other.symlink_to(path)
    expected = populated(link)
    assert link.is_symlink()
    assert other.is_symlink()
    assert kept(path) == expected


def test_what_is_no_regular_file_is_refused(path: Path) -> None:
    os.mkfifo(path)
    for bad in (path, Path("/dev/null")):
        with pytest.raises(KvmxenError, match=r"is not a regular file: choose another file"):
            kept(bad)


@pytest.mark.parametrize("content", [b"something else entirely", b"kvmxen xenstore 3\n"])
def test_other_files_are_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(KvmxenError, match="is not a xenstore"):
        kept(path)
    assert path.read_bytes() == content


def test_one_domain_at_a_time(path: Path) -> None:
    with Journal(path) as journal:
        journal.attach(Store().state)
        with pytest.raises(KvmxenError, match="in use by another domain"):
            kept(path)
    kept(path)


def test_what_cannot_be_opened_is_a_sentence(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    for bad in (tmp_path, tmp_path / "no" / "where", loop):
        with pytest.raises(KvmxenError, match="cannot be opened"):
            kept(bad)


PERMISSION = st.builds(
    Permission,
    st.integers(0, 0xFFFF),
    st.sampled_from([NONE, READ, WRITE, READ | WRITE]),
    st.booleans(),
)


@given(st.lists(PERMISSION, max_size=5), st.binary(max_size=30), st.sampled_from(["/", "/a/b"]))
def test_entries_are_of_construct_s_node_data(
    permissions: list[Permission], value: bytes, where: str
) -> None:
    name = where.encode() + b"\0"
    body = xs_state.NODE.build(
        {
            "conn_id": 0,
            "ta_id": 0,
            "path_len": len(name),
            "data_len": len(value),
            "ta_access": 0,
            "perm_n": len(permissions),
            "perms": [
                {"access": p.encode()[0], "flags": 0 if p.valid else 1, "domid": p.domid}
                for p in permissions
            ],
            "path": name,
            "data": value,
        }
    )
    entry = encode(where, value, tuple(permissions))
    assert entry == body + bytes(-len(body) % 8)
    assert list(decode(entry * 2)) == [(where, value, tuple(permissions))] * 2


WRITER = """
import sys
from pathlib import Path
from kvmxen.xenstore.store import Store
from kvmxen.xenstore.wire import Message
from kvmxen.xenstore.server.journal import Journal
with Journal(Path(sys.argv[1]), slack=2000) as journal:
    store = Store()
    journal.attach(store.state)
    client = store.connect()
    number = int(store.read("/last")) if store.exists("/last") else 0
    while True:
        number += 1
        tx = Message(6, 0, 0, b"\\0").encode()
        client.feed(tx)
        tx = int(client.take(999)[16:-1])
        for path in (b"/last", b"/k/%d" % (number % 7)):
            client.feed(Message(11, 0, tx, path + b"\\0%d" % number).encode())
        client.feed(Message(7, 0, tx, b"T\\0").encode())
        assert client.take(999).endswith(b"OK\\0")
        sys.stdout.buffer.write(b"%d\\n" % number)
        sys.stdout.buffer.flush()
"""


def test_a_kill_leaves_a_prefix_of_what_was_acknowledged(path: Path) -> None:
    """Each run continues from the killed one, wherever that was."""
    choice, last = random.Random(4), 0
    for _ in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            for _ in range(choice.randrange(1, 150)):
                acknowledged = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            lines = process.stdout.read().split(b"\n")[:-1]
        acknowledged = int(lines[-1]) if lines else acknowledged
        found = kept(path)
        reached = int(found["/last"][0])
        assert acknowledged <= reached <= acknowledged + 1
        assert acknowledged > last
        last = reached
        expected = {f"/k/{n % 7}": b"%d" % n for n in range(1, reached + 1)}
        assert {p: value for p, (value, _) in found.items() if p.startswith("/k/")} == expected


def test_the_file_says_what_it_is(path: Path) -> None:
    assert kept(path) == nodes(Store())
    data = path.read_bytes()
    assert data.startswith(MAGIC)
    assert len(list(entries(data))) == 1
