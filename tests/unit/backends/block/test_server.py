"""The qemu-nbd process: its rights, the message about its end, and that it does not outlive us."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from types import FrameType

import pytest

from kvmxen import confine
from kvmxen.backends.block.qemu import QemuImage
from kvmxen.backends.block.server import Server, passed
from kvmxen.config import DiskSpec
from kvmxen.errors import KvmxenError
from kvmxen.xen.abi.blkif import BlkifOp, BlkifStatus
from tests.e2e.disks import run, tool
from tests.unit.backends.block.frontend import Disk, Seg
from tests.unit.backends.block.scarcity import descriptors, open_descriptors
from tests.unit.backends.fake_domain import wait_until


@pytest.fixture
def image(tmp_path: Path) -> Path:
    tool("qemu-nbd")
    path = tmp_path / "image.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "16M")
    return path


def spec(image: Path) -> DiskSpec:
    return DiskSpec.parse(f"{image},format=qcow2,target=xvdb")


@pytest.fixture
def server(image: Path) -> Iterator[Server]:
    opened = QemuImage(spec(image), 2)
    yield opened._server
    opened.close()


def status(server: Server) -> dict[str, str]:
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


# Its rights.


def test_what_it_may_do(server: Server) -> None:
    found = status(server)
    assert found["NoNewPrivs"] == "1"
    most = confine.CAP_DAC_OVERRIDE if os.geteuid() == 0 else 0
    for kind in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
        assert int(found[kind], 16) & ~most == 0, kind
    if os.geteuid() == 0:
        assert int(found["CapBnd"], 16) & ~most == 0


def test_what_it_knows(server: Server) -> None:
    folder = Path(f"/proc/{server.process.pid}")
    variables = {
        text.partition(b"=")[0] for text in (folder / "environ").read_bytes().split(b"\0") if text
    }
    assert variables == {b"PATH", b"LC_ALL", b"LISTEN_PID", b"LISTEN_FDS"}
    assert (folder / "cwd").readlink() == Path("/")


def test_what_it_has_open(image: Path, tmp_path: Path) -> None:
    """It has only the descriptors passed to it, whatever else we have open, inheritable or not."""
    ours = (tmp_path / "ours").open("wb")
    os.set_inheritable(ours.fileno(), True)
    with ours, closing(QemuImage(spec(image), 2)) as opened:
        folder = Path(f"/proc/{opened._server.process.pid}/fd")
        files = {str(path.readlink()) for path in folder.iterdir()}
    named = {name for name in files if name.startswith("/") and not name.startswith("/dev/")}
    assert named == {str(image)}


def test_copies_are_out_of_the_way(tmp_path: Path) -> None:
    """3 is the socket's."""
    with (tmp_path / "a").open("wb") as file, passed(file.fileno(), file.fileno()) as copies:
        assert min(copies) >= 10
        assert len(set(copies)) == 2
        assert all(fcntl.fcntl(fd, fcntl.F_GETFD) == fcntl.FD_CLOEXEC for fd in copies)


# Its end.


def test_an_end_amid_requests_is_told(image: Path, capfd: pytest.CaptureFixture[str]) -> None:
    disk = Disk(image, "format=qcow2,target=xvdb")
    ring = disk.connect()
    _, ref = disk.page(b"data")
    assert ring.do(BlkifOp.WRITE, 0, Seg(ref)) is BlkifStatus.OKAY
    disk.vbd._image._server.process.kill()  # type: ignore[attr-defined]
    said = ""

    def is_told() -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return "\n" in said

    wait_until(is_told)
    assert ring.do(BlkifOp.WRITE, 0, Seg(ref)) is BlkifStatus.ERROR
    disk.end()
    said += capfd.readouterr().err
    assert " ".join(said.split()) == (
        f"kvmxen: the disk xvdb ({image}): qemu-nbd was killed by signal 9 (Killed); "
        "the guest gets I/O errors"
    )


def test_an_end_that_is_wanted_is_not_told(image: Path, capfd: pytest.CaptureFixture[str]) -> None:
    opened = QemuImage(spec(image), 2)
    opened.close()
    assert opened._server.process.returncode == 0
    assert capfd.readouterr().err == ""


@pytest.fixture
def replace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """replace(program): puts that in place of qemu-nbd."""

    def make(program: str) -> None:
        path = tmp_path / "qemu-nbd"
        path.write_text(program)
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    return make


TALKS = """#!/bin/sh
i=0
while [ $i -lt 3000 ]; do
    echo "complaint $i, which is longer than a word, and there are many of them" >&2
    i=$((i+1))
done
exit 3
"""


def test_one_that_talks_too_much(image: Path, replace: Callable[[str], None]) -> None:
    """More output than a pipe holds; the last line is the reason."""
    replace(TALKS)
    with pytest.raises(KvmxenError, match="cannot be used: complaint 2999, which is longer"):
        QemuImage(spec(image), 2)


def test_one_that_cannot_run(image: Path, replace: Callable[[str], None]) -> None:
    replace("\x7fELF")
    with pytest.raises(KvmxenError, match=r"cannot be used: .*Exec format error"):
        QemuImage(spec(image), 2)


class _Interrupted(Exception):
    pass


def test_the_wait_for_it_can_be_interrupted(image: Path, replace: Callable[[str], None]) -> None:
    """A signal handler raises: nothing is left."""
    replace("#!/bin/sh\nexec sleep 600\n")
    before = open_descriptors()
    threads = set(threading.enumerate())

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        raise _Interrupted

    old = signal.signal(signal.SIGUSR1, on_signal)
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        wait_until(lambda: any("sleep" in command_line(pid) for pid in children(os.getpid())))
        signal.pthread_kill(main, signal.SIGUSR1)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    try:
        with pytest.raises(_Interrupted):
            QemuImage(spec(image), 2)
    finally:
        interrupter.join()
        signal.signal(signal.SIGUSR1, old)
    wait_until(lambda: set(threading.enumerate()) == threads)
    assert not any("sleep" in command_line(pid) for pid in children(os.getpid()))
    assert open_descriptors() <= before


def children(parent: int) -> list[int]:
    tasks = Path(f"/proc/{parent}/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


def command_line(pid: int) -> str:
    """Its command line; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except FileNotFoundError:
        return ""


def none_is_left(pids: list[int]) -> bool:
    return not any(map(command_line, pids))


PROGRAM = """
import sys, time
from kvmxen.backends.block import qemu
from kvmxen.config import DiskSpec
qemu.QemuImage(DiskSpec.parse(sys.argv[1] + ',format=qcow2'), 2)
time.sleep(600)
"""


@pytest.mark.parametrize("program", ["confine.py", "qemu-nbd"])
def test_it_ends_when_we_are_killed(image: Path, tmp_path: Path, program: str) -> None:
    """Before it serves, nobody is connected whose end it could see."""
    log = tmp_path / "log"
    found: list[int] = []
    while not found:
        with log.open("w") as file:
            child = subprocess.Popen([sys.executable, "-c", PROGRAM, str(image)], stderr=file)
        servers: dict[int, str] = {}
        while not any("qemu-nbd" in line for line in servers.values()):
            assert child.poll() is None
            servers = {pid: command_line(pid) for pid in children(child.pid)}
        found = [pid for pid, line in servers.items() if program in line]
        if not found:
            # On a busy machine confine.py may have become qemu-nbd before this looked.
            child.kill()
            child.wait()
            wait_until(partial(none_is_left, list(servers)))
    server = os.pidfd_open(found[0])
    child.kill()
    child.wait()
    assert select.select([server], [], [], 120)[0]
    os.close(server)
    assert log.read_text() == ""
    QemuImage(spec(image), 2).close()


def test_out_of_descriptors(image: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Wherever descriptors run out: a sentence, and nothing is left open or on disk."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = open_descriptors()
    sentences = set()
    for count in range(40):
        try:
            with descriptors(count):
                opened = QemuImage(spec(image), 2)
        except KvmxenError as error:
            sentences.add(str(error))
            assert open_descriptors() <= before
            assert list(tmp_path.iterdir()) == [image]
        else:
            opened.close()
            break
    assert opened._server.process.returncode == 0
    assert sentences
    assert all(str(image) in text and "Too many open files" in text for text in sentences)
