"""Domains that come, go, shut down, act for others, and have features and quotas of their own."""

from __future__ import annotations

from kvmxen.xen.abi.xs_wire import Feature
from kvmxen.xen.abi.xs_wire import Operation as Op
from kvmxen.xenstore.control import inconsistencies
from kvmxen.xenstore.permissions import READ, WRITE, Permission
from kvmxen.xenstore.quota import QUOTA_NAMES
from kvmxen.xenstore.store import Store
from tests.unit.xenstore.client import Client

OK = b"OK\0"


def test_release_takes_the_domain_s_nodes_and_permissions(store: Store, dom0: Client) -> None:
    guest = Client(store.state, 1)
    store.write("/local/domain/1/data/deep/er", b"v")
    store.set_permissions("/local/domain/1/data/deep", Permission(0), Permission(1, READ))
    store.write("/shared", b"v")
    store.set_permissions("/shared", Permission(0), Permission(1, WRITE), Permission(7, READ))
    store.write("/mine/there", b"v")
    store.set_permissions("/mine/there", Permission(1))
    store.set_permissions("@releaseDomain", Permission(1), Permission(7, READ))
    for path in (b"/mine", b"@releaseDomain", b"/local/domain/1/data/deep/er"):
        dom0.ask(Op.WATCH, path + b"\0t\x002\0")
    dom0.drain()
    assert dom0.ask(Op.RELEASE, b"1\0") == OK
    assert dom0.drain() == [
        (b"/local/domain/1/data/deep/er", b"t"),
        (b"/mine/there", b"t"),
        (b"@releaseDomain/1", b"t"),
    ]
    assert dom0.ask(Op.READ, b"/local/domain/1/data\0") == "ENOENT"
    assert dom0.ask(Op.GET_PERMS, b"/local/domain/1\0") == b"n0\0"
    assert dom0.ask(Op.GET_PERMS, b"/shared\0") == b"n0\0r7\0"
    assert dom0.ask(Op.GET_PERMS, b"@releaseDomain\0") == b"n0\0r7\0"
    assert dom0.ask(Op.DIRECTORY, b"/mine\0") == b""
    assert dom0.ask(Op.IS_DOMAIN_INTRODUCED, b"1\0") == b"F\0"
    assert dom0.ask(Op.RELEASE, b"1\0") == "ENOENT"
    assert inconsistencies(store.state) == []
    guest.connection.feed(b"anything")
    assert not guest.connection.pending


def test_a_domain_that_comes_again_begins_anew(store: Store, dom0: Client) -> None:
    guest = Client(store.state, 1)
    guest.ask(Op.WATCH, b"data\0t\0")
    guest.start()
    dom0.ask(Op.RELEASE, b"1\0")
    dom0.ask(Op.WATCH, b"@introduceDomain\0t\0")
    dom0.drain()
    assert dom0.ask(Op.INTRODUCE, b"1\x00100\x005\0") == OK
    assert dom0.drain() == [(b"@introduceDomain", b"t")]
    assert guest.ask(Op.READ, b"name\0") == "EACCES"
    assert (store.state.domain(1).watches, store.state.domain(1).transactions) == (0, 0)
    assert guest.start() == 1


def test_introducing_again_resets_the_connection_and_is_no_news(store: Store, dom0: Client) -> None:
    guest = Client(store.state, 1)
    guest.ask(Op.WATCH, b"data\0t\0")
    guest.connection.feed(b"half a requ")
    dom0.ask(Op.WATCH, b"@introduceDomain\0t\0")
    dom0.drain()
    assert dom0.ask(Op.INTRODUCE, b"1\x00100\x005\0") == OK
    assert dom0.drain() == []
    assert store.state.domain(1).watches == 0
    assert guest.ask(Op.READ, b"name\0") == b"guest"


def test_a_shutdown_is_told_once_until_the_domain_is_resumed(store: Store, dom0: Client) -> None:
    for path in (b"@releaseDomain\0t\0", b"@releaseDomain/1\0one\0", b"@releaseDomain/2\0two\0"):
        dom0.ask(Op.WATCH, path)
    dom0.drain()
    told = [(b"@releaseDomain", b"t"), (b"@releaseDomain/1", b"one")]
    store.state.shut_down(1)
    store.state.shut_down(1)
    assert dom0.drain() == told
    assert dom0.ask(Op.RESUME, b"1\0") == OK
    store.state.shut_down(1)
    assert dom0.drain() == told


def test_a_guest_may_be_told_of_domains(store: Store, dom0: Client, guest: Client) -> None:
    guest.ask(Op.WATCH, b"@releaseDomain\0r\0")
    guest.ask(Op.WATCH, b"@introduceDomain\0i\0")
    guest.drain()
    dom0.ask(Op.INTRODUCE, b"2\x00100\x005\0")
    dom0.ask(Op.RELEASE, b"2\0")
    assert guest.drain() == [(b"@releaseDomain", b"r")]
    dom0.ask(Op.SET_PERMS, b"@introduceDomain\0n0\0r1\0")
    dom0.ask(Op.SET_PERMS, b"@releaseDomain\0n0\0")
    guest.drain()
    dom0.ask(Op.INTRODUCE, b"2\x00100\x005\0")
    dom0.ask(Op.RELEASE, b"2\0")
    assert guest.drain() == [(b"@introduceDomain", b"i")]


def test_a_domain_does_for_its_target_what_that_may(store: Store, dom0: Client) -> None:
    """A stub domain, 2, that serves domain 1."""
    store.state.introduce(2)
    stub = Client(store.state, 2)
    asked = [
        (Op.READ, b"/local/domain/1/data\0", b""),
        (Op.READ, b"/local/domain/1/name\0", b"guest"),
        (Op.WRITE, b"/local/domain/1/data/x\0v", OK),
        (Op.SET_PERMS, b"/local/domain/1/data\0n1\0r0\0", OK),
        (Op.SET_PERMS, b"/local/domain/1/data\0n2\0", "EPERM"),
    ]
    for operation, payload, _ in asked:
        assert stub.ask(operation, payload) == "EACCES"
    assert dom0.ask(Op.SET_TARGET, b"2\x001\0") == OK
    for operation, payload, answer in asked:
        assert stub.ask(operation, payload) == answer
    assert dom0.ask(Op.GET_PERMS, b"/local/domain/1/data/x\0") == b"n2\0"
    stub.ask(Op.WATCH, b"/local/domain/1/data\0t\0")
    stub.drain()
    store.write("/local/domain/1/data", b"new")
    assert stub.drain() == [(b"/local/domain/1/data", b"t")]
    dom0.ask(Op.RELEASE, b"1\0")
    assert stub.ask(Op.READ, b"/local/domain/1/name\0") == "EACCES"


def test_features_are_a_domain_s_own(store: Store, dom0: Client) -> None:
    store.set_permissions("/secret", Permission(0), Permission(5, READ))
    assert dom0.ask(Op.SET_FEATURE, b"5\x00%d\0" % Feature.ERROR) == OK
    assert dom0.ask(Op.GET_FEATURE, b"5\0") == b"%d\0" % Feature.ERROR
    guest = Client(store.state, 5)
    assert guest.ask(Op.GET_FEATURE) == b"%d\0" % Feature.ERROR
    assert guest.ask(Op.WATCH, b"x\0t\0") == OK
    assert guest.ask(Op.WATCH, b"y\0t\x001\0") == "EINVAL"
    store.mkdir("/own")
    store.set_permissions("/own", Permission(5))
    assert guest.ask(Op.SET_PERMS, b"/own\0n5\0r32757\0") == OK
    assert Client(store.state, 1).ask(Op.READ, b"/own\0") == "EACCES"


def test_quotas_are_a_domain_s_own_and_new_ones_have_the_global(store: Store, dom0: Client) -> None:
    assert dom0.ask(Op.GET_QUOTA) == " ".join(QUOTA_NAMES).encode() + b"\0"
    assert dom0.ask(Op.SET_QUOTA, b"watches\x001\0") == OK
    assert dom0.ask(Op.GET_QUOTA, b"1\0watches\0") == b"128\0"
    store.state.introduce(3)
    assert dom0.ask(Op.GET_QUOTA, b"3\0watches\0") == b"1\0"
    guest = Client(store.state, 3)
    assert guest.ask(Op.WATCH, b"x\0t\0") == OK
    assert guest.ask(Op.WATCH, b"y\0t\0") == "ENOSPC"
    assert dom0.ask(Op.SET_QUOTA, b"3\0watches\x000\0") == OK
    assert guest.ask(Op.WATCH, b"y\0t\0") == OK
    assert dom0.ask(Op.SET_QUOTA, b"3\0path-max\x0010\0") == OK
    assert guest.ask(Op.READ, b"12345678901\0") == "EINVAL"
    assert guest.ask(Op.READ, b"1234567890\0") == "EACCES"


def test_control_tells_of_quotas(dom0: Client, guest: Client) -> None:
    guest.ask(Op.WRITE, b"data/x\0v")
    guest.ask(Op.RM, b"data/x\0")
    hard = dom0.ask(Op.CONTROL, b"quota\0")
    assert isinstance(hard, bytes)
    assert hard.startswith(b"Quota settings:\n")
    assert b"node-size        :     2048 Max. size of a node\n" in hard
    assert hard.count(b"\n") == 10
    soft = dom0.ask(Op.CONTROL, b"quota-soft\0")
    assert (
        soft == b"Quota settings:\nmemory           :  2097152 Total Xenstore memory per domain\n\0"
    )
    used = dom0.ask(Op.CONTROL, b"quota\x001\0")
    assert isinstance(used, bytes)
    assert used.startswith(b"Domain 1:\nnodes            :        1 (max        2)\n")
    peak = dom0.ask(Op.CONTROL, b"quota\0max\0")
    assert isinstance(peak, bytes)
    assert peak.startswith(b"Max. seen accounting values:\nnodes            :        2\n")
    reset = dom0.ask(Op.CONTROL, b"quota\0max\0-r\0")
    assert isinstance(reset, bytes)
    assert b"nodes            :        0\n" in reset
    commands = dom0.ask(Op.CONTROL, b"help\0")
    assert isinstance(commands, bytes)
    assert [line.split()[0] for line in commands.splitlines()[:-1]] == [
        b"check",
        b"log",
        b"quota",
        b"quota-soft",
        b"help",
    ]


def test_the_most_that_guests_had_is_told_whoever_made_it_so(store: Store, dom0: Client) -> None:
    def most(what: bytes) -> int:
        answer = dom0.ask(Op.CONTROL, b"quota\0max\0")
        assert isinstance(answer, bytes)
        return int(answer.partition(b"\n%b" % what)[2].split(b":")[1].split(b"\n")[0])

    dom0.ask(Op.CONTROL, b"quota\0max\0-r\0")
    assert most(b"nodes") == most(b"memory") == 0
    for name in (b"a", b"b", b"c"):
        dom0.ask(Op.WRITE, b"/local/domain/1/data/%b\0" % name + bytes(100))
    dom0.ask(Op.RM, b"/local/domain/1/data/a\0")
    assert most(b"nodes") == 4
    assert most(b"memory") > 300
    store.state.introduce(2)
    for number in range(7):
        dom0.ask(Op.WRITE, b"/two/%d\0" % number)
        dom0.ask(Op.SET_PERMS, b"/two/%d\0n2\0" % number)
    dom0.ask(Op.RELEASE, b"2\0")
    assert most(b"nodes") == 7
    dom0.ask(Op.CONTROL, b"quota\0max\0-r\0")
    dom0.ask(Op.RM, b"/local/domain/1/data/b\0")
    dom0.ask(Op.WRITE, b"/local/domain/1/data/b\0")
    assert most(b"nodes") == 3
    assert most(b"watches") == 0


def test_control_finds_what_is_wrong(store: Store, dom0: Client) -> None:
    store.state.domain(1).nodes += 1
    answer = dom0.ask(Op.CONTROL, b"check\0")
    assert answer == b"domain 1 is held to own 2 nodes, not 1\0"
