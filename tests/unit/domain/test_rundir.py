from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvmxen.domain import rundir
from kvmxen.domain.rundir import RunDirectory, cache_directory, runtime_root
from kvmxen.errors import Interrupted, KvmxenError

HOLD = """
import sys
from kvmxen.domain.rundir import RunDirectory
directory = RunDirectory(sys.argv[1]).__enter__()
(directory.path / "socket").touch()
print(directory.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "run"
    monkeypatch.setenv("KVMXEN_RUNTIME_DIR", str(folder))
    return folder


@pytest.fixture
def holder() -> Iterator[subprocess.Popen[str]]:
    """Another process, with a domain named "held"."""
    command = [sys.executable, "-c", HOLD, "held"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().endswith("held\n")
        yield process
        process.kill()


def folders(root: Path) -> list[str]:
    return [path.name for path in root.iterdir() if not path.name.startswith(".")]


def test_there_while_it_lasts(root: Path) -> None:
    with RunDirectory("a") as directory:
        assert directory.path == root / "a"
        assert directory.path.stat().st_mode & 0o777 == 0o700
        (directory.path / "sub").mkdir()
        (directory.path / "sub" / "file").touch()
    assert folders(root) == []


def test_removed_when_the_body_raises(root: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunDirectory("a"):
        _ = 1 / 0
    assert folders(root) == []


def test_closing_twice_does_not_touch_a_later_domain(root: Path) -> None:
    with RunDirectory("a") as first:
        first.close()
        with RunDirectory("a"):
            first.close()
            assert (root / "a").is_dir()


def test_same_name_twice(root: Path, holder: subprocess.Popen[str]) -> None:
    with (
        pytest.raises(
            KvmxenError, match=f"named held is already running .process {holder.pid}.*--name"
        ),
        RunDirectory("held"),
    ):
        pass
    assert (root / "held" / "socket").exists()


def test_other_names_live_side_by_side(root: Path, holder: subprocess.Popen[str]) -> None:
    with RunDirectory("other"):
        assert sorted(folders(root)) == ["held", "other"]
    assert holder.poll() is None
    assert (root / "held" / "socket").exists()


@pytest.mark.parametrize("name", ["held", "other"])
def test_a_killed_process_leaves_nothing_for_long(
    root: Path, holder: subprocess.Popen[str], name: str
) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (root / "held" / "socket").exists()
    with RunDirectory(name):
        assert folders(root) == [name]
        assert not (root / name / "socket").exists()
    assert folders(root) == []


def test_removed_at_exit_without_close(root: Path, holder: subprocess.Popen[str]) -> None:
    assert holder.stdin is not None
    holder.stdin.close()
    assert holder.wait() == 0
    assert folders(root) == []


def test_a_forked_child_leaves_it_alone(root: Path) -> None:
    with RunDirectory("a") as directory:
        child = os.fork()
        if child == 0:
            directory.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert directory.path.is_dir()


def test_what_is_no_domains_folder_is_left_alone(root: Path) -> None:
    root.mkdir(mode=0o700)
    (root / "mine").mkdir()
    (root / "mine" / "pid").touch()
    with pytest.raises(KvmxenError, match=r"mine is in the way.*--name"), RunDirectory("mine"):
        pass
    with RunDirectory("other"):
        pass
    assert (root / "mine" / "pid").exists()


def test_a_folder_that_was_made_and_not_locked_is_taken_over(root: Path) -> None:
    (root / "a").mkdir(parents=True, mode=0o700)
    root.chmod(0o700)
    with RunDirectory("a") as directory:
        assert (directory.path / "kvmxen.pid").exists()
    assert folders(root) == []


def test_an_interrupted_start_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", interrupted)
        with pytest.raises(KeyboardInterrupt), RunDirectory("a"):
            pass
    assert folders(root) == []


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", [(Path, "mkdir"), (rundir, "_lock_file")])
def test_a_start_interrupted_before_it_has_its_lock(
    root: Path, monkeypatch: pytest.MonkeyPatch, step: tuple[object, str], after: bool
) -> None:
    """Before the step or after it, but before its result exists."""
    root.mkdir(mode=0o700)
    where, name = step
    real: Callable[..., int | None] = getattr(where, name)

    def interrupted(path: Path, **given: int) -> int | None:
        if path != root / "a":
            return real(path, **given)
        if after:
            real(path, **given)
        raise Interrupted("interrupted before the guest was started", 130)

    with monkeypatch.context() as patch:
        patch.setattr(where, name, interrupted)
        with pytest.raises(Interrupted), RunDirectory("a"):
            pass
    assert folders(root) == []


def test_a_link_for_a_lock_is_not_followed(root: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.touch()
    (root / "a").mkdir(parents=True)
    root.chmod(0o700)
    (root / "a" / "kvmxen.pid").symlink_to(victim)
    with pytest.raises(KvmxenError), RunDirectory("a"):
        pass
    assert victim.read_text() == ""


def test_order_of_the_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert runtime_root() == tmp_path / "run"
    monkeypatch.delenv("KVMXEN_RUNTIME_DIR")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert runtime_root() == tmp_path / "kvmxen"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    private = runtime_root()
    assert private == tmp_path / f"kvmxen-{os.geteuid()}"
    assert private.stat().st_mode & 0o777 == 0o700


def test_root_that_others_can_write_to(root: Path) -> None:
    root.mkdir()
    root.chmod(0o777)
    with pytest.raises(KvmxenError, match=r"only you can write to.*KVMXEN_RUNTIME_DIR"):
        runtime_root()


def test_root_that_is_a_link_or_a_file(root: Path, tmp_path: Path) -> None:
    root.symlink_to(tmp_path)
    with pytest.raises(KvmxenError, match="KVMXEN_RUNTIME_DIR"):
        runtime_root()
    root.unlink()
    root.touch()
    with pytest.raises(KvmxenError, match=r"cannot create the folder .*KVMXEN_RUNTIME_DIR"):
        runtime_root()


def test_cache_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/u")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert cache_directory() == Path("/c/kvmxen")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_directory() == Path("/home/u/.cache/kvmxen")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == Path("/home/u/.cache/kvmxen")


def test_no_cache_for_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose processes have only a number for a user."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)
    assert cache_directory() is None
