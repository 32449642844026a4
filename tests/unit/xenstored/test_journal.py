"""A store that outlives its process: every prefix of the file, every kind of end, SIGKILL."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmxen.abi.layouts import xs_state
from kvmxen.abi.xs_wire import Operation as Op
from kvmxen.errors import KvmxenError
from kvmxen.xenstore.control import inconsistencies
from kvmxen.xenstore.permissions import DOMID_ANY, NONE, READ, WRITE, Permission, Permissions
from kvmxen.xenstore.store import Store
from kvmxen.xenstore.wire import Message
from kvmxen.xenstored.journal import MAGIC, Journal, decode, encode, entries, replay

Nodes = dict[str, tuple[bytes, Permissions]]


def nodes(store: Store) -> Nodes:
    return {path: (node.value, node.permissions) for path, node in store.descend()}


def kept(path: Path) -> Nodes:
    """What another process finds in the file."""
    store = Store()
    with Journal(path) as journal:
        journal.attach(store)
        assert inconsistencies(store) == []
        return nodes(store)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_what_was_written_is_there_again(path: Path) -> None:
    store = Store()
    with Journal(path) as journal:
        journal.attach(store)
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
    """Each run of a domain has a store of its own, and the file is one."""
    with Journal(path) as journal:
        first, second = Store(), Store()
        journal.attach(first)
        first.write("/first", b"1")
        journal.attach(second)
        assert second.read("/first") == b"1"
        first.write("/too/late", b"")
        second.write("/second", b"2")
        expected = nodes(second)
    assert kept(path) == expected


def test_what_was_a_guest_s_goes_with_it(path: Path) -> None:
    store = Store()
    with Journal(path) as journal:
        journal.attach(store)
        store.write("/own/deep", b"v")
        store.write("/shared", b"v")
        store.set_permissions("/own", Permission(1))
        store.set_permissions("/shared", Permission(0), Permission(1, READ), Permission(2, READ))
    found = kept(path)
    assert "/own" not in found
    assert "/own/deep" not in found
    assert found["/shared"] == (b"v", (Permission(0),))


def test_an_answer_waits_for_the_file(path: Path) -> None:
    """Where a change cannot be kept, it is not acknowledged, and neither is any after it."""
    store = Store()
    with Journal(path) as journal:
        journal.attach(store)
        client = store.connect()
        readonly = os.open(path, os.O_RDONLY)
        os.dup2(readonly, journal._fd)
        os.close(readonly)
        for _ in range(2):
            with pytest.raises(KvmxenError, match=r"the xenstore in .* cannot be written"):
                client.feed(Message(Op.WRITE, 1, 0, b"/a\0v").encode())
            assert not client.pending
    assert "/a" not in kept(path)


def changes(store: Store) -> Iterator[None]:
    """Some requests, each of which is one entry."""
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
        journal.attach(store)
        stages = [(path.stat().st_size, nodes(store))]
        stages += [(path.stat().st_size, nodes(store)) for _ in changes(store)]
        data = path.read_bytes()
    assert len({size for size, _ in stages}) == len(stages) == 7
    for length in range(len(MAGIC), len(data) + 1):
        again = Store()
        assert replay(data[:length], again) is None
        assert inconsistencies(again) == []
        before = [found for size, found in stages if size <= length] or [nodes(Store())]
        assert nodes(again) == before[-1]
    path.write_bytes(data[:-1])
    assert kept(path) == stages[-2][1]


@pytest.mark.parametrize("length", [1, 8, 4096])
def test_a_tail_of_zeros_is_cut_off(path: Path, length: int) -> None:
    store = Store()
    with Journal(path) as journal:
        journal.attach(store)
        store.write("/a", b"1")
    with path.open("ab") as file:
        file.write(bytes(length))
    assert kept(path) == nodes(store)


def test_the_file_stays_small(path: Path) -> None:
    store = Store()
    with Journal(path, slack=1000) as journal:
        journal.attach(store)
        for i in range(500):
            store.write(f"/k/{i % 7}", b"%d" % i)
            assert path.stat().st_size < 5000
        expected = nodes(store)
    assert kept(path) == expected
    assert [entry.name for entry in path.parent.iterdir()] == ["store"]


def test_damage_is_not_taken_for_an_interrupted_write(path: Path) -> None:
    store = Store()
    with Journal(path) as journal:
        journal.attach(store)
        store.write("/a", b"1")
        store.write("/b", b"2")
    data = bytearray(path.read_bytes())
    data[data.index(b"/a")] ^= 1
    path.write_bytes(data)
    with pytest.raises(KvmxenError, match="is damaged at byte"):
        kept(path)
    assert path.read_bytes() == data


@pytest.mark.parametrize("content", [b"something else entirely", b"kvmxen xenstore 2\n"])
def test_other_files_are_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(KvmxenError, match="is not a xenstore"):
        kept(path)
    assert path.read_bytes() == content


def test_one_domain_at_a_time(path: Path) -> None:
    with Journal(path) as journal:
        journal.attach(Store())
        with pytest.raises(KvmxenError, match="another domain's now"):
            kept(path)
    kept(path)


def test_what_cannot_be_opened_is_a_sentence(tmp_path: Path) -> None:
    for bad in (tmp_path, tmp_path / "no" / "where"):
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
from kvmxen.xenstored.journal import Journal
with Journal(Path(sys.argv[1]), slack=2000) as journal:
    store = Store()
    journal.attach(store)
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
    """Each run goes on from the one that was killed, at whatever it was just doing."""
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
