"""Signals and the timeout work from the first moment on, while kvmxen waits for something."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from kvmxen import guests
from tests.e2e import disks
from tests.e2e.domain import LIMIT, PATIENCE, SLOWNESS, Boot

DEMO = Path(guests.__file__).parent / "demo.elf"


def runs(*command: str) -> bool:
    """Whether a process with that command line exists."""
    wanted = "".join(f"{word}\0" for word in command).encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if path.read_bytes() == wanted:
                return True
    return False


@pytest.fixture
def server(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Puts a qemu-nbd that never serves into the path; server() waits until it runs. None must
    be left at the end."""
    # It may not write files; a number in its command line identifies it.
    sleep = ("sleep", str(1_000_000 + os.getpid()))
    program = tmp_path / "bin" / "qemu-nbd"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nexec {' '.join(sleep)}\n")
    program.chmod(0o755)
    environment["PATH"] = f"{program.parent}:{environment['PATH']}"

    def wait(until: bool) -> None:
        end = time.monotonic() + PATIENCE * SLOWNESS
        while runs(*sleep) is not until:
            assert time.monotonic() < end, f"qemu-nbd {'was not started' if until else 'stays'}"
            time.sleep(0.01)

    yield lambda: wait(True)
    wait(False)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    image = tmp_path / "image.qcow2"
    disks.run("qemu-img", "create", "-q", "-f", "qcow2", image, "1M")
    return image


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_an_image_is_opened(
    boot: Boot, server: Callable[[], None], image: Path, number: signal.Signals
) -> None:
    domain = boot(DEMO, "--disk", f"{image},format=qcow2", "--timeout", LIMIT)
    server()
    domain.process.send_signal(number)
    domain.ends(130)
    assert domain.stderr == "kvmxen: interrupted before the guest was started\n"


@pytest.mark.usefixtures("server")
def test_the_timeout_while_an_image_is_opened(boot: Boot, image: Path) -> None:
    domain = boot(DEMO, "--disk", f"{image},format=qcow2", "--timeout", 2)
    domain.ends(4)
    assert domain.stderr == "kvmxen: the time limit was reached before the guest was started\n"


def test_the_timeout_while_a_console_is_opened(boot: Boot, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    domain = boot("--console", f"file:{fifo}", "--timeout", 2)
    domain.ends(4)


def test_a_hangup_asks_the_guest(boot: Boot, pv_grub: Path) -> None:
    domain = boot(pv_grub, "--timeout", LIMIT)
    domain.expect("grub> ")
    domain.process.send_signal(signal.SIGHUP)
    domain.expect_stderr("asking the guest to shut down; repeat to destroy it")
    domain.process.send_signal(signal.SIGHUP)
    domain.ends(130)
