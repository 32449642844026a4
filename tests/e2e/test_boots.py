"""Many boots in one process: each leaves the process as it was."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmxen.cli.foreground import boot
from kvmxen.config import Config, ConsoleSpec
from tests.e2e.domain import LIMIT, Ramdisk
from tests.unit.backends.fake_domain import wait_until

# The first use of a library may leave a mapping, a file or a thread, once.
WARM_UP = 2


class Resources:
    """The resources of this process, and the contents of the folders that a domain may write to."""

    def __init__(self, *folders: Path) -> None:
        # The parts of a machine refer to each other.
        gc.collect()
        self.fds = sorted(map(target, Path("/proc/self/fd").iterdir()))
        self.threads = {thread.name for thread in threading.enumerate()}
        lines = Path("/proc/self/maps").read_text().splitlines()
        self.guest_memory = [line for line in lines if "memfd:" in line or "kvm-" in line]
        self.files = sorted(path for folder in folders for path in folder.rglob("*"))
        self.handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
        self.children = Path("/proc/thread-self/children").read_text()


def target(fd: Path) -> str:
    """The object of an open descriptor."""
    try:
        return str(fd.readlink())
    except FileNotFoundError:
        return "the list of descriptors itself"


def tasks() -> int:
    """The host's threads of this process; a joined thread may still be ending."""
    return len(list(Path("/proc/self/task").iterdir()))


def boot_again_and_again(config: Config, times: int, *folders: Path) -> None:
    for _ in range(WARM_UP):
        assert boot(config, timeout=LIMIT) == 0
    before, tasks_before = vars(Resources(*folders)), tasks()
    for _ in range(times):
        assert boot(config, timeout=LIMIT) == 0
        assert vars(Resources(*folders)) == before
        wait_until(lambda: tasks() <= tasks_before)


@pytest.fixture
def folders(
    kvm: None, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path]:
    run, temporary = tmp_path / "run", tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("KVMXEN_RUNTIME_DIR", str(run))
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return run, temporary


@pytest.mark.parametrize("vcpus", [1, 4])
def test_small_guest(folders: tuple[Path, Path], vcpus: int) -> None:
    config = Config(name="again", vcpus=vcpus, console=ConsoleSpec("none"))
    boot_again_and_again(config, 20 if vcpus == 1 else 5, *folders)


def test_debian(
    folders: tuple[Path, Path], debian_kernel: Callable[[str], Path], ramdisk: Ramdisk
) -> None:
    config = Config(
        name="again",
        kernel=debian_kernel("6.12"),
        ramdisk=ramdisk("poweroff -f\n"),
        vcpus=2,
        console=ConsoleSpec("none"),
    )
    boot_again_and_again(config, 2, *folders)
