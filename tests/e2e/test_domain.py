"""Domain: guests started from Python, in threads of their own, one after another and at once."""

from __future__ import annotations

import dataclasses
import doctest
import inspect
import os
import re
import threading
from pathlib import Path

import pytest

import kvmxen
from kvmxen import Config, ConsoleSpec, DiskSpec, Domain, End, Event, KvmxenError, State
from kvmxen.backends.terminal import ConsoleStream
from kvmxen.cli.person import Person
from kvmxen.domain.control import requests
from kvmxen.domain.ending import Ending
from kvmxen.domain.record import read_record
from kvmxen.domain.remote import RemoteDomain
from kvmxen.domain.rundir import running, runtime_root
from kvmxen.errors import UsageError
from tests.e2e.domain import PATIENCE, ROOT, SLOWNESS
from tests.unit.loader.images import ENTRY, Load, elf

WAIT = PATIENCE * SLOWNESS
# Methods of Domain only for the server of its control socket.
FOR_ITS_CLIENTS = {"attach_console", "attach_feed", "wait_for_clients"}


@pytest.fixture(autouse=True)
def folders(kvm: None, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVMXEN_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """An empty image of 1 MiB."""
    disk = tmp_path / "disk.img"
    disk.touch()
    os.truncate(disk, 1 << 20)
    return disk


@pytest.fixture
def grub(pv_grub: Path) -> Config:
    """A guest that waits at a prompt forever."""
    return Config(name="grub", kernel=pv_grub, console=ConsoleSpec("program"))


def test_the_example_in_the_package() -> None:
    assert doctest.testmod(kvmxen).attempted > 0
    assert doctest.testmod(kvmxen).failed == 0


def test_the_api_page() -> None:
    page = (ROOT / "docs/api.md").read_text()
    blocks = re.findall(r"```pycon\n(.*?)```", page, re.S)
    session = doctest.DocTestParser().get_doctest("".join(blocks), {}, "api.md", None, None)
    assert len(session.examples) > len(blocks) > 5
    report: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.FAIL_FAST).run(session, out=report.append)
    assert report == []


def test_the_api_page_names_everything() -> None:
    page = (ROOT / "docs/api.md").read_text()
    public = {name for name in dir(Domain) if not name.startswith("_")} - FOR_ITS_CLIENTS
    fields = {field.name for field in dataclasses.fields(Config)}
    members = {str(member) for kind in (End, Event, State) for member in kind}
    for name in {*kvmxen.__all__, *public, *fields, *(m.partition(".")[2] for m in members)}:
        assert re.search(rf"`{name}\b", page), name
    for name in re.findall(r"^\| `(\w+)\(", page, re.M):
        assert hasattr(Domain, name) or hasattr(ConsoleStream, name), name


def test_every_public_name_is_there() -> None:
    assert set(kvmxen.__all__) <= set(dir(kvmxen))
    for name in kvmxen.__all__:
        assert getattr(kvmxen, name).__module__.startswith("kvmxen.")
    with pytest.raises(AttributeError, match="no attribute 'Demand'"):
        _ = kvmxen.Demand


def test_a_life(grub: Config) -> None:
    events: list[Event] = []
    with Domain(grub) as domain:
        domain.listen(events.append)
        assert domain.state is State.PAUSED
        assert domain.wait(timeout=0) is None
        domain.start()
        assert [domain.state] == [State.RUNNING]
        domain.console.read_until(b"grub> ", WAIT)
        domain.console.write(b"echo as typed\r")
        domain.console.read_until(b"\n\ras typed", WAIT)
        domain.pause()
        assert [domain.state] == [State.PAUSED]
        domain.console.write(b"echo while it is paused\r")
        with pytest.raises(TimeoutError):
            domain.console.read_until(b"\n\rwhile it is paused", 0.5)
        domain.unpause()
        domain.console.read_until(b"\n\rwhile it is paused", WAIT)
        with pytest.raises(KvmxenError, match="has already been started"):
            domain.start()
        domain.console.write(b"halt\r")
        ending = domain.wait(WAIT)
        assert [domain.state] == [State.ENDED]
        assert domain.console.read(timeout=WAIT) != b""
    assert ending is not None
    assert ending.end is End.POWEROFF
    assert events == [Event.STARTED, Event.PAUSED, Event.UNPAUSED, Event.ENDED]
    assert running(runtime_root()) == []


def test_what_is_left_of_the_console_is_read_after_the_end() -> None:
    with Domain(Config(name="demo", console=ConsoleSpec("program"))) as domain:
        domain.start()
        domain.wait(WAIT)
    text = b""
    while more := domain.console.read(timeout=WAIT):
        text += more
    assert b"null hypercall" in text
    assert domain.stats()["exits_total"]


def test_a_reboot(grub: Config) -> None:
    events: list[Event] = []
    with Domain(grub) as domain:
        domain.listen(events.append)
        domain.start()
        for _ in range(2):
            domain.console.read_until(b"grub> ", WAIT)
            domain.console.write(b"reboot\r")
        domain.console.read_until(b"grub> ", WAIT)
        domain.destroy()
        ending = domain.wait(WAIT)
    assert ending is not None
    assert ending.end is End.DESTROYED
    assert events == [Event.STARTED, Event.REBOOTED, Event.REBOOTED, Event.ENDED]


@pytest.fixture
def crashing(tmp_path: Path) -> Path:
    """A kernel whose first instruction is undefined, when it has no trap table yet."""
    kernel = tmp_path / "crashing"
    kernel.write_bytes(elf(loads=[Load(data=b"\x90" * (ENTRY % 0x1000) + b"\x0f\x0b")]))
    return kernel


def test_a_guest_that_crashes_is_booted_again(crashing: Path) -> None:
    ends: list[End] = []
    rebooted = threading.Semaphore(0)

    def told(event: Event) -> None:
        if event is Event.REBOOTED and domain.ending:
            ends.append(domain.ending.end)
            rebooted.release()

    config = Config(name="again", kernel=crashing, on_crash="restart", console=ConsoleSpec("none"))
    with Domain(config) as domain:
        domain.listen(told)
        domain.start()
        for _ in range(2):
            assert rebooted.acquire(timeout=WAIT)
    assert ends[:2] == [End.CRASH, End.CRASH]


def test_one_that_crashes_at_once_has_to_wait(
    crashing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvmxen.domain.domain._SHORTEST_S", 1e6)
    rebooted = threading.Semaphore(0)

    def told(event: Event) -> None:
        if event is Event.REBOOTED:
            rebooted.release()

    config = Config(name="again", kernel=crashing, on_crash="restart", console=ConsoleSpec("none"))
    with Domain(config) as domain:
        domain.listen(told)
        domain.start()
        assert rebooted.acquire(timeout=WAIT)
        assert not rebooted.acquire(timeout=0.5)
        # It does not keep a person waiting.
        domain.destroy()
        ending = domain.wait(WAIT)
    assert ending is not None


@pytest.mark.parametrize("end", [End.CRASH, End.POWEROFF])
def test_a_guest_is_preserved(crashing: Path, disk: Path, end: End) -> None:
    events: list[Event] = []
    preserved = threading.Event()

    def told(event: Event) -> None:
        events.append(event)
        if event is Event.PRESERVED:
            preserved.set()

    config = Config(
        name="kept",
        kernel=crashing if end is End.CRASH else None,
        on_crash="preserve",
        on_poweroff="preserve",
        console=ConsoleSpec("none"),
    )
    with Domain(config) as domain:
        domain.listen(told)
        domain.attach_disk(DiskSpec(path=disk))
        domain.start()
        assert preserved.wait(WAIT)
        assert domain.state is State.PRESERVED
        assert domain.ending is not None
        assert domain.ending.end is end
        assert domain.wait(0) is None
        assert not domain.shutdown()
        with pytest.raises(KvmxenError, match="the guest of kept has ended"):
            domain.pause()
        assert domain.stats()["exits_total"]
        assert set(domain.device_figures()) == {"vbd/51712"}
        domain.destroy()
        ending = domain.wait(WAIT)
    assert ending is domain.ending
    assert ending is not None
    assert (ending.end, bool(ending.report)) == (end, end is End.CRASH)
    assert events == [Event.STARTED, Event.PRESERVED, Event.ENDED]


def test_paused_over_a_reboot(grub: Config) -> None:
    rebooted = threading.Event()

    def told(event: Event) -> None:
        if event is Event.REBOOTED:
            domain.pause()
            rebooted.set()

    with Domain(grub) as domain:
        domain.listen(told)
        domain.start()
        domain.console.read_until(b"grub> ", WAIT)
        domain.console.write(b"reboot\r")
        assert rebooted.wait(WAIT)
        with pytest.raises(TimeoutError):
            domain.console.read_until(b"grub> ", 1.0)
        domain.unpause()
        domain.console.read_until(b"grub> ", WAIT)


def test_devices(grub: Config, disk: Path) -> None:
    with Domain(grub) as domain:
        assert domain.attach_disk(DiskSpec(path=disk)) == "xvda"
        with pytest.raises(KvmxenError, match="is in use"):
            domain.attach_disk(DiskSpec(path=disk))
        domain.start()
        assert set(domain.device_figures()) == {"vbd/51712"}
        assert domain.detach_disk("xvda", force=True)
        with pytest.raises(KvmxenError, match="the guest has no disk xvda"):
            domain.resize_disk("xvda")
    with pytest.raises(KvmxenError, match="has ended"):
        domain.attach_disk(DiskSpec(path=disk))


def test_several_at_once(grub: Config) -> None:
    other = Config(name="other", kernel=grub.kernel, console=ConsoleSpec("program"))
    with Domain(grub) as one, Domain(other) as two:
        for domain in (one, two):
            domain.start()
        for domain in (two, one):
            domain.console.read_until(b"grub> ", WAIT)
        one.destroy()
        one.wait(WAIT)
        two.console.write(b"echo still here\r")
        two.console.read_until(b"\n\rstill here", WAIT)


def test_any_thread_builds_it(grub: Config) -> None:
    ended: list[object] = []

    def session() -> None:
        with Domain(grub) as domain:
            domain.start()
            domain.console.read_until(b"grub> ", WAIT)
            domain.pause()
        ended.append(domain.wait())

    for _ in range(2):
        thread = threading.Thread(target=session)
        thread.start()
        thread.join(WAIT)
    assert len(ended) == 2


def test_one_that_is_never_started(grub: Config) -> None:
    threads = set(threading.enumerate())
    with Domain(grub) as domain:
        assert not domain.shutdown()
        with pytest.raises(KvmxenError, match="is already running"):
            Domain(grub)
    ending = domain.wait()
    assert ending is not None
    assert ending.end is End.DESTROYED
    domain.close()
    assert set(threading.enumerate()) == threads
    assert running(runtime_root()) == []


def test_the_console_may_be_anothers(grub: Config) -> None:
    with Domain(Config(name="silent", kernel=grub.kernel, console=ConsoleSpec("none"))) as domain:
        with pytest.raises(KvmxenError, match='ConsoleSpec\\("program"\\)'):
            _ = domain.console
        assert domain.console_path == ""


def test_a_guest_that_cannot_be_booted_again(grub: Config, disk: Path) -> None:
    config = Config(
        name="once", kernel=grub.kernel, console=grub.console, disks=(DiskSpec(path=disk),)
    )
    with Domain(config) as domain:
        domain.start()
        domain.console.read_until(b"grub> ", WAIT)
        disk.unlink()
        domain.console.write(b"reboot\r")
        with pytest.raises(KvmxenError, match=r"disk\.img"):
            domain.wait(WAIT)
    assert domain.state is State.ENDED
    assert running(runtime_root()) == []


def test_from_another_process(grub: Config, disk: Path) -> None:
    """This process stands in for another: everything goes through the socket."""
    ended: list[Ending | None] = []
    with Domain(grub) as domain:
        remote = kvmxen.connect("grub")
        waiting = threading.Thread(target=lambda: ended.append(remote.wait()))
        waiting.start()
        assert (remote.uuid, remote.console_path) == (domain.uuid, "")
        assert remote.state is State.PAUSED
        assert remote.attach_disk(DiskSpec(path=disk)) == "xvda"
        assert remote.wait(0.0) is None
        remote.start()
        assert [remote.state] == [State.RUNNING]
        domain.console.read_until(b"grub> ", WAIT)
        remote.pause()
        assert domain.state is State.PAUSED
        remote.unpause()
        assert remote.detach_disk("xvda", force=True) is True
        assert remote.device_figures() == {}
        assert remote.stats()["exits_total"]
        assert remote.shutdown()
        remote.destroy()
        waiting.join(WAIT)
        assert ended == [domain.wait(WAIT)]
    with pytest.raises(KvmxenError, match="no domain named grub is running"):
        kvmxen.connect("grub")


def test_a_remote_domain_is_no_later_one_of_its_name(grub: Config) -> None:
    with Domain(grub) as first:
        first.start()
        remote = kvmxen.connect("grub")
        first.destroy()
        assert remote.wait(WAIT)
    with Domain(grub) as second:
        second.start()
        with pytest.raises(KvmxenError, match="the domain grub has ended; another has its name"):
            remote.destroy()
        ending = remote.wait(WAIT)
        assert ending is not None
        assert ending.end is End.DESTROYED
        assert second.state is State.RUNNING


def test_who_waits_is_asked_again(grub: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a client that has gone keeps its place in the domain for a while only."""
    monkeypatch.setattr(requests, "MAX_WAIT_S", 0.05)
    with Domain(grub) as domain:
        domain.start()
        remote = kvmxen.connect("grub")
        assert remote.wait(0.3) is None
        with pytest.raises(UsageError, match="wait 0 to"):
            requests.Wait(0.1)
        threading.Timer(0.3, domain.destroy).start()
        ended = remote.wait(WAIT)
    assert ended is not None
    assert ended.end is End.DESTROYED


def test_a_domain_elsewhere_is_used_as_one_here() -> None:
    methods = inspect.getmembers(RemoteDomain, inspect.isfunction)
    public = {name: method for name, method in methods if not name.startswith("_")}
    assert len(public) > 10
    for name, method in public.items():
        assert inspect.signature(method) == inspect.signature(getattr(Domain, name)), name


def test_an_interrupted_building_leaves_nothing(grub: Config) -> None:
    person = Person()
    threads = set(threading.enumerate())

    class Stop(Exception):
        pass

    steps = 0

    def step() -> object:
        nonlocal steps
        steps += 1
        if steps == 3:
            raise Stop
        return person.interruptible()

    with pytest.raises(Stop):
        Domain(grub, step=step)  # type: ignore[arg-type]
    assert set(threading.enumerate()) == threads
    assert running(runtime_root()) == []


def test_a_domains_life_seen_from_another_process(grub: Config) -> None:
    """Events, console and description go through the socket; this process stands in for another."""
    with Domain(grub) as domain:
        remote = kvmxen.connect("grub")
        stream = remote.events()
        described = remote.describe()
        assert described == domain.describe()
        assert (described.config.name, described.vcpus, described.memory) == ("grub", 1, 512 << 20)
        remote.start()
        domain.console.read_until(b"grub> ", WAIT)
        one = remote.open_console()
        two = remote.open_console()
        assert (one.writes, two.writes) == (True, False)
        for console in (one, two):
            console.read_until(b"grub> ", WAIT)
        one.write(b"echo from afar\r")
        for console in (one, two, domain.console):
            console.read_until(b"\n\rfrom afar", WAIT)
        one.write(b"reboot\r")
        two.close()
        # The viewers stay over a reboot.
        for _ in range(2):
            domain.console.read_until(b"grub> ", WAIT)
        three = remote.open_console(force=True)
        assert three.writes
        assert one.read_until(b"this never comes", WAIT).count(b"grub> ") == 2
        three.write(b"halt\r")
        told = [(h.event, h.end) for h in stream]
        assert b"from afar" in three.read_until(b"this never comes", WAIT)
        for console in (one, three):
            console.close()
        stream.close()
    assert told == [
        (Event.STARTED, ""),
        (Event.REBOOTED, "reboot"),
        (Event.ENDED, "poweroff"),
    ]
    record = read_record(runtime_root(), "grub")
    assert record is not None
    assert (record.end, record.domain.uuid, record.domain.id) == (
        "poweroff",
        domain.uuid,
        described.id,
    )


def test_waiting_for_one_that_has_ended_already(grub: Config) -> None:
    with Domain(grub) as domain:
        remote = kvmxen.connect("grub")
        domain.start()
    ending = domain.wait(WAIT)
    assert remote.wait(WAIT) == ending
    # A later domain of that name is another, and takes the place of the record.
    with Domain(grub):
        pass
    with pytest.raises(KvmxenError, match="no record of how"):
        remote.wait(WAIT)
