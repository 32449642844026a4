"""Those who look at a console: history, one typist at a time, slow readers, ends."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from kvmxen.backends.viewers import HISTORY, Viewers
from tests.unit.backends.test_console import Bench, FakeLoop, Guest


class Console:
    """The console of a run that takes `room` bytes."""

    def __init__(self) -> None:
        self.typed = b""
        self.room = 1 << 20

    @property
    def takes_input(self) -> bool:
        return len(self.typed) < self.room

    def type(self, data: bytes) -> None:
        self.typed += data


class Scene:
    def __init__(self) -> None:
        self.loop = FakeLoop()
        self.viewers = Viewers(self.loop)
        self.console = Console()
        self.viewers.keyboard = self.console
        self.ends: list[socket.socket] = []

    def attach(self, *, writes: bool = True, force: bool = False) -> tuple[socket.socket, bool]:
        """Our end of a new viewer, and whether it may type."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.ends.append(ours)
        types = self.viewers.attach(theirs, writes=writes, force=force)
        self.turn()
        return ours, types

    def turn(self) -> None:
        """Let the loop do what it has to, until nothing is left."""
        while self.loop.posted:
            self.loop.posted.pop(0)()
        for _ in range(8):
            for readable, callback in list(self.loop.watched.values()):
                if readable:
                    callback()


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.viewers.close()
    assert scene.loop.watched == {}
    for ours in scene.ends:
        ours.close()


def is_at_its_end(connected: socket.socket) -> bool:
    try:
        while connected.recv(1 << 20):
            pass
    except BlockingIOError:
        return False
    return True


def test_each_gets_the_history_and_then_everything(scene: Scene) -> None:
    scene.viewers.written(b"early ")
    one, _ = scene.attach()
    scene.viewers.written(b"late")
    two, _ = scene.attach(writes=False)
    assert one.recv(100) == two.recv(100) == b"early late"


def test_the_history_has_an_end(scene: Scene) -> None:
    for at in range(9):
        scene.viewers.written(b"%d" % at * (HISTORY // 4))
    one, _ = scene.attach()
    history = b""
    scene.turn()
    for fd, (readable, callback) in list(scene.loop.watched.items()):
        assert fd
        if not readable:
            history += one.recv(1 << 20)
            callback()
    history += one.recv(1 << 20)
    assert history == b"".join(b"%d" % at * (HISTORY // 4) for at in range(5, 9))


def test_one_at_a_time_types(scene: Scene) -> None:
    reader, types = scene.attach(writes=False)
    assert not types
    first, types = scene.attach()
    assert types
    second, types = scene.attach()
    assert not types
    for connected, typed in ((reader, b"r"), (first, b"1"), (second, b"2")):
        connected.send(typed)
    scene.turn()
    assert scene.console.typed == b"1"
    # The next one may as soon as the first has gone.
    first.close()
    scene.turn()
    second.send(b"3")
    scene.turn()
    assert scene.console.typed == b"13"


def test_force_disconnects_the_typist(scene: Scene) -> None:
    reader, _ = scene.attach(writes=False)
    first, _ = scene.attach()
    second, types = scene.attach(force=True)
    assert types
    assert is_at_its_end(first)
    assert not is_at_its_end(reader)
    second.send(b"2")
    scene.turn()
    assert scene.console.typed == b"2"


def test_a_slow_reader_misses_the_oldest_and_delays_nobody(scene: Scene) -> None:
    slow, _ = scene.attach()
    quick, _ = scene.attach(writes=False)
    seen = b""
    for at in range(64):
        scene.viewers.written(bytes([at]) * (16 << 10))
        seen += quick.recv(1 << 20)
    assert seen == b"".join(bytes([at]) * (16 << 10) for at in range(64))
    scene.viewers.close()
    late = b"".join(iter(lambda: slow.recv(1 << 20), b""))
    assert late.endswith(seen[-(16 << 10) :]) or len(late) < len(seen)
    assert 0 < len(late) < len(seen)


def test_input_waits_while_the_guest_takes_none(scene: Scene) -> None:
    scene.console.room = 4
    one, _ = scene.attach()
    one.send(b"1234")
    scene.turn()
    one.send(b"5678")
    scene.turn()
    assert scene.console.typed == b"1234"
    scene.console.room = 8
    scene.viewers.has_room()
    scene.turn()
    assert scene.console.typed == b"12345678"


def test_between_two_runs_typing_is_lost(scene: Scene) -> None:
    one, _ = scene.attach()
    scene.viewers.keyboard = None
    one.send(b"lost")
    scene.turn()
    scene.viewers.keyboard = scene.console
    one.send(b"kept")
    scene.turn()
    assert scene.console.typed == b"kept"


def test_after_the_end_there_is_nothing_to_see(scene: Scene) -> None:
    one, _ = scene.attach()
    scene.viewers.written(b"last words")
    scene.viewers.close()
    assert one.recv(100) == b"last words"
    assert is_at_its_end(one)
    late, types = scene.attach()
    assert not types
    assert is_at_its_end(late)


def test_the_console_shows_them_all_and_lets_them_type() -> None:
    """Whatever the terminal is, and none is lost on it."""
    bench = Bench()
    viewers = Viewers(bench.loop)
    guest = Guest()
    from kvmxen.backends.console import Console as Backend
    from kvmxen.backends.terminal import PlainTerminal

    backend = Backend(
        guest.memory, 0x1000, guest.notify, PlainTerminal(None, None), bench.loop, viewers
    )
    ours, theirs = socket.socketpair()
    viewers.attach(theirs, writes=True, force=False)
    run(bench.loop.posted)
    guest.write(b"hello")
    backend.pump()
    assert ours.recv(10) == b"hello"
    ours.send(b"typed")
    bench.loop.ready(theirs.fileno())
    assert guest.read() == b"typed"
    backend.close()
    viewers.close()
    ours.close()


def run(posted: list[Callable[[], None]]) -> None:
    while posted:
        posted.pop(0)()
