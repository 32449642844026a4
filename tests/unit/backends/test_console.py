"""The console backend between a guest's rings and a terminal, with a loop under our control."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvmxen.backends.console import TAIL_BYTES, Console
from kvmxen.backends.terminal import PlainTerminal, StdioTerminal, open_terminal
from kvmxen.backends.viewers import Viewers
from kvmxen.config import ConsoleSpec
from kvmxen.kvm.memory import GuestMemory
from kvmxen.xen.abi.io_console import (
    IN_CONS,
    IN_PROD,
    INPUT,
    INPUT_SIZE,
    OUT_CONS,
    OUT_PROD,
    OUTPUT,
    OUTPUT_SIZE,
)

PAGE = 0x1000


class FakeLoop:
    """Records the watches; `posted` waits until it is run."""

    def __init__(self) -> None:
        self.watched: dict[int, tuple[bool, Callable[[], None]]] = {}
        self.posted: list[Callable[[], None]] = []

    def watch(self, fd: int, readable: bool, callback: Callable[[], None]) -> None:
        assert fd not in self.watched
        self.watched[fd] = readable, callback

    def unwatch(self, fd: int) -> None:
        self.watched.pop(fd, None)

    def post(self, callback: Callable[[], None]) -> None:
        self.posted.append(callback)

    def ready(self, fd: int) -> None:
        self.watched[fd][1]()


class Guest:
    """The guest's end of the rings."""

    def __init__(self) -> None:
        self.memory = GuestMemory(2 * PAGE)
        self.events = 0

    def notify(self) -> None:
        self.events += 1

    def index(self, offset: int) -> int:
        return self.memory.read_u32(PAGE + offset)

    def write(self, data: bytes) -> int:
        """Put as much of `data` as fits into the output ring."""
        prod = self.index(OUT_PROD)
        data = data[: OUTPUT_SIZE - (prod - self.index(OUT_CONS))]
        for at, byte in enumerate(data, prod):
            self.memory.write_u8(PAGE + OUTPUT + at % OUTPUT_SIZE, byte)
        self.memory.write_u32(PAGE + OUT_PROD, prod + len(data))
        return len(data)

    def read(self) -> bytes:
        """Read all of the input ring."""
        cons, prod = self.index(IN_CONS), self.index(IN_PROD)
        self.memory.write_u32(PAGE + IN_CONS, prod)
        return bytes(
            self.memory.read(PAGE + INPUT + at % INPUT_SIZE, 1)[0] for at in range(cons, prod)
        )


class Bench:
    def __init__(self, *, lossy: bool = False) -> None:
        self.guest = Guest()
        self.loop = FakeLoop()
        self.typed_to, self.typist = os.pipe()
        self.reader, self.writes_to = os.pipe()
        for fd in (self.typed_to, self.reader):
            os.set_blocking(fd, False)
        self.terminal = PlainTerminal(self.typed_to, self.writes_to)
        self.terminal.lossy = lossy
        self.console = self.connect(self.terminal)

    def connect(self, terminal: PlainTerminal) -> Console:
        return Console(
            self.guest.memory, PAGE, self.guest.notify, terminal, self.loop, Viewers(self.loop)
        )

    def shown(self) -> bytes:
        try:
            return os.read(self.reader, 1 << 20)
        except BlockingIOError:
            return b""

    def type(self, data: bytes) -> None:
        os.write(self.typist, data)
        self.loop.ready(self.typed_to)

    def fill_pipe(self) -> None:
        os.set_blocking(self.writes_to, False)
        try:
            while True:
                os.write(self.writes_to, bytes(4096))
        except BlockingIOError:
            os.set_blocking(self.writes_to, True)

    def close(self) -> None:
        for fd in (self.typed_to, self.typist, self.reader, self.writes_to):
            os.close(fd)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def test_output_reaches_the_terminal_and_frees_the_ring(bench: Bench) -> None:
    bench.guest.write(b"hello\n")
    bench.console.pump()
    assert bench.shown() == b"hello\n"
    assert bench.guest.index(OUT_CONS) == 6
    assert bench.guest.events == 1
    assert bench.console.tail == b"hello\n"


def test_nothing_to_do_is_no_event(bench: Bench) -> None:
    bench.console.pump()
    assert bench.guest.events == 0
    assert bench.loop.posted == []


def test_input_reaches_the_guest(bench: Bench) -> None:
    bench.type(b"ls\r")
    assert bench.guest.read() == b"ls\r"
    assert bench.guest.events == 1


def test_input_that_does_not_fit_waits(bench: Bench) -> None:
    text = bytes(range(256)) * 5
    bench.type(text)
    bench.loop.ready(bench.typed_to)
    # Both the ring and the backend's own buffer are full: it reads no more.
    got = bench.guest.read()
    assert len(got) == INPUT_SIZE
    bench.console.pump()
    while part := bench.guest.read():
        got += part
        bench.console.pump()
    assert got == text
    assert bench.typed_to in bench.loop.watched


def test_the_end_of_input_ends_only_the_input(bench: Bench) -> None:
    os.close(bench.typist)
    bench.typist = os.dup(bench.typed_to)
    bench.loop.ready(bench.typed_to)
    assert bench.typed_to not in bench.loop.watched
    bench.guest.write(b"still here")
    bench.console.pump()
    assert bench.shown() == b"still here"


def test_a_slow_terminal_slows_the_guest_and_not_the_loop(bench: Bench) -> None:
    bench.fill_pipe()
    bench.guest.write(b"x" * OUTPUT_SIZE)
    bench.console.pump()
    bench.guest.write(b"y" * OUTPUT_SIZE)
    bench.console.pump()
    assert bench.guest.write(b"z") == 0
    readable, _ = bench.loop.watched[bench.writes_to]
    assert not readable
    while b"x" not in (shown := bench.shown()):
        bench.loop.ready(bench.writes_to)
    while not shown.endswith(b"y" * 10):
        shown += bench.shown()
    assert shown.lstrip(b"\0") == b"x" * OUTPUT_SIZE + b"y" * OUTPUT_SIZE
    assert bench.writes_to not in bench.loop.watched


def test_a_program_that_does_not_read_slows_the_guest_and_loses_nothing() -> None:
    guest, loop = Guest(), FakeLoop()
    with open_terminal(ConsoleSpec("program")) as terminal:
        stream, output = terminal.stream, terminal.output_fd
        assert stream is not None
        assert output is not None
        console = Console(guest.memory, PAGE, guest.notify, terminal, loop, Viewers(loop))
        written = b""
        while count := guest.write(line := b"%08d\r\n" % len(written)):
            written += line[:count]
            console.pump()
        # Small writes do not fill it any sooner.
        assert len(written) > 1 << 16
        shown = b""
        while len(shown) < len(written):
            shown += stream.read(timeout=10)
            if output in loop.watched:
                loop.ready(output)
        assert shown == written
        console.close()
        stream.close()


def test_a_terminal_nobody_reads_loses_output() -> None:
    bench = Bench(lossy=True)
    bench.fill_pipe()
    bench.guest.write(b"x" * OUTPUT_SIZE)
    bench.console.pump()
    assert bench.guest.index(OUT_CONS) == OUTPUT_SIZE
    assert bench.console.tail == b"x" * OUTPUT_SIZE
    bench.console.close()
    bench.close()


def test_a_pty_that_takes_nothing_though_poll_said_it_would(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its only descriptor is already watched for input."""
    keyboard = bench.typed_to
    terminal = PlainTerminal(keyboard, keyboard)
    terminal.lossy = True
    bench.console.close()
    bench.console = bench.connect(terminal)

    def refuse(_fd: int, _data: bytes) -> int:
        raise BlockingIOError

    monkeypatch.setattr(Console, "_takes_output", lambda _self, _fd: True)
    monkeypatch.setattr(os, "write", refuse)
    bench.guest.write(b"lost")
    bench.console.pump()
    monkeypatch.undo()
    assert bench.guest.index(OUT_CONS) == len(b"lost")
    assert bench.console.tail == b"lost"
    bench.type(b"ls\r")
    assert bench.guest.read() == b"ls\r"


def test_a_full_disk_is_said_once_and_writing_resumes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        for _ in range(2):
            bench.guest.write(b"lost")
            bench.console.pump()
    assert capsys.readouterr().err == (
        "kvmxen: console output is lost until it can be written again: No space left on device\n"
    )
    # The guest continues meanwhile.
    assert bench.guest.index(OUT_CONS) == 8
    bench.guest.write(b"there")
    bench.console.pump()
    assert bench.shown() == b"there"
    assert bench.console.tail == b"lostlostthere"


def test_a_reader_that_goes(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    os.close(bench.reader)
    for _ in range(3):
        bench.guest.write(b"x" * OUTPUT_SIZE)
        bench.console.pump()
    assert bench.guest.index(OUT_CONS) == 3 * OUTPUT_SIZE
    assert bench.writes_to not in bench.loop.watched
    bench.console.close()
    assert capsys.readouterr().err == (
        "kvmxen: console output is lost until it can be written again: the reader has gone\n"
    )
    bench.reader = os.dup(bench.writes_to)


def test_a_stdout_that_another_process_made_non_blocking(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object) -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", busy)
        bench.guest.write(b"later")
        bench.console.pump()
    bench.loop.ready(bench.writes_to)
    assert bench.shown() == b"later"
    assert bench.writes_to not in bench.loop.watched


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDONLY | os.O_DIRECTORY])
def test_what_cannot_be_read_is_no_input(bench: Bench, tmp_path: Path, flags: int) -> None:
    path = tmp_path if flags & os.O_DIRECTORY else Path(os.devnull)
    fd = os.open(path, flags)
    bench.connect(PlainTerminal(fd, None))
    bench.loop.ready(fd)
    assert fd not in bench.loop.watched
    os.close(fd)


def test_no_terminal_at_all(bench: Bench) -> None:
    console = bench.connect(PlainTerminal(None, None))
    bench.guest.write(b"unseen")
    console.pump()
    assert console.tail == b"unseen"
    console.close()


def test_a_guest_that_never_stops_leaves_the_loop_its_turn(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0

    def write(_fd: int, data: bytes) -> int:
        nonlocal written
        written += len(data)
        bench.guest.write(b"y\n" * 512)
        return len(data)

    monkeypatch.setattr(os, "write", write)
    bench.guest.write(b"y\n")
    bench.console.pump()
    assert 0 < written <= 16 * 2048
    assert bench.loop.posted == [bench.console.pump]


def test_the_tail_is_bounded(bench: Bench) -> None:
    console = bench.connect(PlainTerminal(None, None))
    for _ in range(6):
        bench.guest.write(b"x" * OUTPUT_SIZE)
        console.pump()
    bench.guest.write(b"the end")
    console.pump()
    assert len(console.tail) == TAIL_BYTES
    assert console.tail.endswith(b"xthe end")


def test_emergency_output_goes_first(bench: Bench) -> None:
    bench.guest.write(b"by the ring")
    bench.console.emergency(b"(XEN) ")
    bench.console.emergency(b"early ")
    bench.console.pump()
    assert bench.shown() == b"(XEN) early by the ring"


def test_emergency_output_is_bounded(bench: Bench) -> None:
    for _ in range(100_000):
        bench.console.emergency(b"flood")
    bench.console.close()
    assert len(bench.shown()) < 10_000


@pytest.mark.parametrize(
    ("offset", "value"),
    [(OUT_PROD, OUTPUT_SIZE + 1), (OUT_PROD, 0xFFFFFFFF), (IN_CONS, 1), (IN_CONS, 1 << 31)],
)
def test_a_broken_ring_is_left_alone(bench: Bench, offset: int, value: int) -> None:
    bench.guest.memory.write_u32(PAGE + offset, value)
    before = bench.guest.memory.read(0, 2 * PAGE)
    bench.type(b"typed")
    bench.console.pump()
    bench.guest.memory.write_u32(PAGE + offset, 0)
    bench.guest.write(b"mended too late")
    bench.console.pump()
    assert bench.shown() == b""
    after = bytearray(bench.guest.memory.read(0, 2 * PAGE))
    # Only the guest has written since.
    assert after[:PAGE] == before[:PAGE]
    assert bench.guest.index(OUT_CONS) == bench.guest.index(IN_PROD) == 0
    bench.console.close()


def test_close_writes_what_is_left_and_lets_go(bench: Bench) -> None:
    bench.console.emergency(b"e" * 40_000)
    bench.guest.write(b"goodbye")
    bench.console.close()
    assert bench.shown() == b"e" * 40_000 + b"goodbye"
    assert bench.loop.watched == {}


def test_what_was_posted_before_the_close_does_nothing(bench: Bench) -> None:
    bench.console.close()
    bench.guest.write(b"of the next guest")
    bench.console.pump()
    assert bench.shown() == b""
    assert bench.loop.watched == {}


class Keyboard(StdioTerminal):
    """A person's terminal, at a pipe's end."""

    def __init__(self, fd: int) -> None:
        self.escapes = 0
        super().__init__(self._escape, lambda: None)
        self.input_fd, self.output_fd = fd, None

    def _escape(self) -> None:
        self.escapes += 1


def test_the_escape_key_is_not_the_guests(bench: Bench) -> None:
    terminal = Keyboard(bench.typed_to)
    bench.console.close()
    bench.connect(terminal)
    bench.type(b"a\x1db\x1d")
    assert bench.guest.read() == b"ab"
    assert terminal.escapes == 2


@pytest.mark.parametrize("broken", [False, True])
def test_the_escape_key_works_whatever_the_guest_reads(bench: Bench, broken: bool) -> None:
    terminal = Keyboard(bench.typed_to)
    bench.console.close()
    console = bench.connect(terminal)
    if broken:
        bench.guest.memory.write_u32(PAGE + IN_CONS, 1)
    text = bytes(range(32, 112)) * 60
    for at in range(0, len(text), 100):
        bench.type(text[at : at + 100])
    bench.type(b"\x1d")
    assert terminal.escapes == 1
    if broken:
        return
    # Earlier input is not lost.
    got = b""
    while part := bench.guest.read():
        got += part
        console.pump()
    assert got == text


def test_what_is_typed_ahead_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvmxen.backends.console._TYPED_AHEAD", 3000)
    bench.console.close()
    console = bench.connect(Keyboard(bench.typed_to))
    for _ in range(50):
        bench.type(b"x" * 100)
    got = b""
    while part := bench.guest.read():
        got += part
        console.pump()
    # The bytes that the ring took at once come on top.
    assert 3000 <= len(got) <= 3000 + INPUT_SIZE


def test_emergency_output_in_a_persons_terminal(bench: Bench) -> None:
    terminal = Keyboard(bench.typed_to)
    terminal.output_fd = bench.writes_to
    bench.console.close()
    console = bench.connect(terminal)
    console.emergency(b"one\ntwo\n")
    bench.guest.write(b"three\n")
    console.pump()
    assert bench.shown() == b"one\r\ntwo\r\nthree\n"
