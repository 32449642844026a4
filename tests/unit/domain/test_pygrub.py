"""What we ask of pygrub, and what a pygrub that a disk has taken over may answer."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from kvmxen import confine
from kvmxen.config import Config, DiskSpec
from kvmxen.domain import pygrub
from kvmxen.domain.pygrub import boot_files
from kvmxen.errors import KvmxenError

# Its options in the order in which it gets them.
PROGRAM = """\
#!/bin/sh
answer=${3#--output=} folder=${4#--output-directory=} args=${5#--args=} disk=$6
"""


class Pygrub:
    def __init__(self, folder: Path) -> None:
        self._path = folder / "bin" / "pygrub"
        self._path.parent.mkdir()
        self.disk = DiskSpec(path=folder / "disk")
        self.disk.path.write_text("the disk's own")
        self.place = folder / "run"
        self.place.mkdir()

    def does(self, script: str) -> None:
        self._path.write_text(PROGRAM + script)
        self._path.chmod(0o700)

    def found(self, more: str = "") -> tuple[str, str | None, str]:
        with boot_files(self.disk, more, self.place) as found:
            ramdisk = found.ramdisk.read_text() if found.ramdisk else None
            return found.kernel.read_text(), ramdisk, found.cmdline


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pygrub:
    monkeypatch.setattr(pygrub, "_PLACES", (str(tmp_path / "bin" / "pygrub"),))
    return Pygrub(tmp_path)


def test_a_kernel_a_ramdisk_and_a_command_line(program: Pygrub) -> None:
    program.does(
        'cat "$disk" >"$folder/k"; echo ram >"$folder/r"\n'
        r'printf "kernel $folder/k\0ramdisk $folder/r\0args ro $args\0\0" >"$answer"'
    )
    assert program.found("quiet") == ("the disk's own", "ram\n", "ro quiet")
    assert list(program.place.iterdir()) == []


def test_a_kernel_alone(program: Pygrub) -> None:
    program.does(r'echo >"$folder/k"; printf "kernel $folder/k\0\0" >"$answer"')
    assert program.found() == ("\n", None, "")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (r'printf "kernel /etc/passwd\0\0" >"$answer"', "named a file that it may not"),
        (r'printf "kernel $folder/../x\0\0" >"$answer"', "named a file that it may not"),
        (
            r'ln -s /etc/passwd "$folder/k"; printf "kernel $folder/k\0\0" >"$answer"',
            "named a file that it may not",
        ),
        (r'printf "args x\0\0" >"$answer"', "found no kernel"),
        ('rm "$answer"', "found no kernel"),
        ('rm "$answer"; mkfifo "$answer"', "found no kernel"),
        ('rm "$answer"; ln -s /etc/passwd "$answer"', "found no kernel"),
        ("", "found no kernel"),
        (
            r'echo >"$folder/k"; printf "kernel $folder/k\0args a\nb\0\0" >"$answer"',
            "a command line that no guest can have",
        ),
        ("echo one; echo two; exit 1", r"found no kernel on .*/disk \(two\)"),
        ("exit 3", r"found no kernel on .*/disk \(status 3\)"),
        ("kill -9 $$", r"found no kernel on .*/disk \(status -9\)"),
    ],
)
def test_what_cannot_be_booted(program: Pygrub, script: str, said: str) -> None:
    program.does(script)
    with pytest.raises(KvmxenError, match=said):
        program.found()
    assert list(program.place.iterdir()) == []


def test_one_that_does_not_end(program: Pygrub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a process of its own outlive it."""
    monkeypatch.setattr(pygrub, "_PATIENCE_S", 0.5)
    program.does('(sleep 600 & echo $! >"$folder/../pid"; sleep 600) & echo $! >"$answer"; wait')
    began = time.monotonic()
    with pytest.raises(KvmxenError, match="took more than"):
        program.found()
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("other", ["ln -s /etc/passwd", "mkfifo"])
def test_what_it_replaces_later_is_not_read(
    program: Pygrub, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """On a host without Landlock it can make other files than plain ones."""
    monkeypatch.setattr(confine, "command", lambda command, **_: list(command))
    program.does(f'rm "$answer"; {other} "$answer"')
    with pytest.raises(KvmxenError, match="found no kernel"):
        program.found()


def test_a_disk_that_is_not_raw(program: Pygrub) -> None:
    program.does("exit 0")
    disk = DiskSpec(path=program.disk.path, format="qcow2")
    with pytest.raises(KvmxenError, match="an image of the format qcow2: convert it to raw"):
        boot_files(disk, "", program.place).__enter__()


def test_a_host_without_it(program: Pygrub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(KvmxenError, match="this host has no pygrub: install"):
        program.found()


def test_it_is_for_disks_alone() -> None:
    with pytest.raises(KvmxenError, match="bootloader is for a disk's own system"):
        Config(name="a", bootloader="pygrub")
    disks = (DiskSpec(path=Path("d")),)
    with pytest.raises(KvmxenError, match="leave the kernel out"):
        Config(name="a", bootloader="pygrub", kernel=Path("k"), disks=disks)
