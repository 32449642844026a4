"""The main thread's loop: descriptors, posted calls and deadlines, each in turn."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from kvmxen.backends.loop import Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_posted_calls_run_in_order(loop: Loop) -> None:
    ran: list[int] = []
    for number in range(3):
        loop.post(lambda number=number: ran.append(number))  # type: ignore[misc]
    loop.post(loop.stop)
    loop.run()
    assert ran == [0, 1, 2]


def test_a_call_waits_at_most_once(loop: Loop) -> None:
    ran: list[int] = []

    def call() -> None:
        ran.append(1)
        if len(ran) == 2:
            loop.stop()
        else:
            # A call posted while it runs comes again.
            loop.post(call)

    for _ in range(100):
        loop.post(call)
    loop.run()
    assert ran == [1, 1]


def test_a_call_that_posts_itself_does_not_starve_the_rest(
    loop: Loop, pipe: tuple[int, int]
) -> None:
    def again() -> None:
        loop.post(again)

    again()
    loop.watch(pipe[1], False, loop.stop)
    loop.run()
    loop.unwatch(pipe[1])
    loop.after(0, loop.stop)
    loop.run()


def test_another_threads_post_wakes_the_loop(loop: Loop) -> None:
    thread = threading.Thread(target=lambda: loop.post(loop.stop))
    thread.start()
    loop.run()
    thread.join()


def test_a_descriptor_is_watched_until_unwatched(loop: Loop, pipe: tuple[int, int]) -> None:
    got: list[bytes] = []

    def readable() -> None:
        got.append(os.read(pipe[0], 1))
        if len(got) == 2:
            loop.unwatch(pipe[0])
            loop.post(loop.stop)

    os.write(pipe[1], b"abc")
    loop.watch(pipe[0], True, readable)
    loop.run()
    assert got == [b"a", b"b"]


def test_a_second_watch_of_a_descriptor_is_refused(loop: Loop, pipe: tuple[int, int]) -> None:
    loop.watch(pipe[1], False, loop.stop)
    with pytest.raises(KeyError):
        loop.watch(pipe[1], True, lambda: pytest.fail("nobody watches for this"))
    loop.run()


def test_unwatching_what_is_not_watched_is_nothing(loop: Loop) -> None:
    loop.unwatch(0)


def test_deadlines_come_in_their_order(loop: Loop) -> None:
    ran: list[str] = []
    loop.after(0.002, loop.stop)
    loop.after(0.001, lambda: ran.append("second"))
    loop.after(0, lambda: ran.append("first"))
    loop.run()
    assert ran == ["first", "second"]


def test_a_regular_file_can_be_watched(loop: Loop, tmp_path: os.PathLike[str]) -> None:
    fd = os.open(os.path.join(tmp_path, "file"), os.O_WRONLY | os.O_CREAT)  # noqa: PTH118
    loop.watch(fd, False, loop.stop)
    loop.run()
    loop.unwatch(fd)
    os.close(fd)
