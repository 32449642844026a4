"""The rights that a confined program keeps."""

from __future__ import annotations

import shutil
import socket
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from kvmxen import confine


def confined(
    *program: str, readonly: tuple[int, ...] = (), writable: tuple[int, ...] = (), folder: str = ""
) -> str:
    """The output of a program with these rights."""
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        result = subprocess.run(
            confine.command(
                program,
                socket=listener.fileno(),
                readonly=readonly,
                writable=writable,
                folder=folder,
            ),
            pass_fds=(listener.fileno(), *readonly, *writable),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    return result.stdout + result.stderr


@pytest.fixture
def landlock() -> None:
    if confine.libc.syscall(confine.CREATE_RULESET, None, 0, confine.RULESET_VERSION) < 1:
        pytest.skip("needs Landlock in the host's kernel")


@pytest.mark.usefixtures("landlock")
def test_the_files_that_it_reaches(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    for path in (mine, other):
        path.write_text(path.name)
    shell = "/bin/sh"
    with mine.open("r+b") as file:
        fd = file.fileno()
        again = f"/proc/self/fd/{fd}"
        for readonly, writable in (((fd,), ()), ((), (fd,))):
            assert confined("/bin/cat", again, readonly=readonly, writable=writable) == "mine"
            said = confined("/bin/cat", str(other), readonly=readonly, writable=writable)
            assert "Permission denied" in said
            said = confined(
                shell, "-c", f"echo more >>{tmp_path / 'new'}", readonly=readonly, writable=writable
            )
            assert "Permission denied" in said
        write = f"echo changed >>{again}"
        assert "Permission denied" in confined(shell, "-c", write, readonly=(fd,))
        assert mine.read_text() == "mine"
        assert confined(shell, "-c", write, writable=(fd,)) == ""
        assert mine.read_text() == "minechanged\n"
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "other"}


@pytest.mark.usefixtures("landlock")
def test_what_lies_around_a_program_is_not_read(tmp_path: Path) -> None:
    """A program that a person built in the home directory, with libraries in ../lib."""
    for name in ("bin", "lib"):
        (tmp_path / name).mkdir()
    program = str(shutil.copy("/bin/cat", tmp_path / "bin"))
    for name in ("lib/library", "bin/letter", "letter"):
        (tmp_path / name).write_text(name)
    assert confined(program, str(tmp_path / "lib/library")) == "lib/library"
    for name in ("bin/letter", "letter"):
        assert "Permission denied" in confined(program, str(tmp_path / name))


@pytest.mark.parametrize(
    ("program", "own"),
    [
        ("/opt/qemu/bin/qemu-nbd", "/opt"),
        ("/nix/store/x-qemu/bin/qemu-nbd", "/nix"),
        ("/home/u/qemu/bin/qemu-nbd", "/home/u/qemu/lib"),
        ("/root/qemu-nbd", "/lib"),
    ],
)
def test_the_paths_of_a_program(program: str, own: str) -> None:
    system = {"/usr", "/bin", "/lib", "/lib64"}
    assert set(confine.consists_of(program)) == system | {program, own}


def test_a_socket_handed_over() -> None:
    command = "echo $LISTEN_FDS $((LISTEN_PID == $$)); [ -S /dev/fd/3 ] || [ -e /proc/self/fd/3 ]"
    assert confined("/bin/sh", "-c", command) == "1 1\n"


@pytest.mark.usefixtures("landlock")
def test_the_folder_that_it_fills(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    fill = f"echo made >{folder / 'file'}; echo beside >{tmp_path / 'beside'}"
    said = confined("/bin/sh", "-c", fill, folder=str(folder))
    assert "Permission denied" in said
    assert (folder / "file").read_text() == "made\n"
    said = confined("/bin/sh", "-c", f"ln -s /etc/passwd {folder / 'link'}", folder=str(folder))
    assert "Permission denied" in said
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_how_much_it_writes_into_a_file_of_the_folder(tmp_path: Path) -> None:
    limit = confined("/bin/sh", "-c", "ulimit -f", folder=str(tmp_path))
    assert int(limit) * 512 == confine.MAX_FILE
