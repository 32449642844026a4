"""kvmxen xenstore: its output, and the exit status for each mistake."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmxen.cli import main
from kvmxen.xenstore.server.protocol import SOCKET
from kvmxen.xenstore.server.server import Server
from kvmxen.xenstore.store import Store
from kvmxen.xenstore.watches import Match

HOME = "/local/domain/1"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The store of a running domain called web."""
    monkeypatch.setenv("KVMXEN_RUNTIME_DIR", str(tmp_path))
    tmp_path.chmod(0o700)
    (tmp_path / "web").mkdir()
    store = Store()
    store.write(f"{HOME}/name", b"web")
    store.write(f"{HOME}/data/raw", b"a\\b\n\x01\x80")
    store.write(f"{HOME}/data/last", b"")
    with Server(store, tmp_path / "web" / SOCKET, lambda error: pytest.fail(str(error))):
        yield store


class Ran:
    """The result of kvmxen with arguments: `status`, `out`, `err`."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> None:
        self.status = main(["xenstore", *arguments])
        self.out, self.err = capsys.readouterr()


TREE = """\
name = "web"
data = ""
 raw = "a\\\\b\\n\\001\\x80"
 last = ""
"""


def test_ls(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert Ran(capsys, "ls", "web").out == TREE
    assert Ran(capsys, "ls", "web", HOME).out == TREE
    assert Ran(capsys, "ls", "web", "/local").out.startswith('domain = ""\n 1 = ""\n  name = "web"')
    assert Ran(capsys, "ls", "web", "name").out == ""


def test_ls_of_the_deepest_path(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    path = "/d" * 1023
    store.write(path, b"bottom")
    out = Ran(capsys, "ls", "web", "/d").out
    assert out.endswith(' d = "bottom"\n')
    assert out.count("\n") == 1022


def test_read(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        Ran(capsys, "read", "web", "name", f"{HOME}/data/raw").out == "web\na\\\\b\\n\\001\\x80\n"
    )


def test_write_is_one_change(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "write", "web", "data/a", "-1", "/top/b", "two words")
    assert (ran.status, ran.out, ran.err) == (0, "", "")
    assert store.read(f"{HOME}/data/a") == b"-1"
    assert store.read("/top/b") == b"two words"
    ran = Ran(capsys, "write", "web", "data/a", "2", "/bad//path", "x")
    assert ran.status == 2
    assert store.read(f"{HOME}/data/a") == b"-1"


def test_rm_is_one_change(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "rm", "web", "data/raw", "data/typo")
    assert (ran.status, ran.err) == (3, f"kvmxen: there is no node {HOME}/data/typo\n")
    assert store.exists(f"{HOME}/data/raw")
    assert Ran(capsys, "rm", "web", "data", "name").status == 0
    assert store.directory(HOME) == []


def test_watch(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    def change() -> None:
        while not store.state.watches.matching(f"{HOME}/data", Match.SUBTREE):
            time.sleep(0.001)
        store.write(f"{HOME}/data/new", b"")

    thread = threading.Thread(target=change)
    thread.start()
    ran = Ran(capsys, "watch", "-n", "2", "web", "data")
    thread.join()
    assert (ran.status, ran.out) == (0, f"{HOME}/data\n{HOME}/data/new\n")


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        ("read web none", 3, f"there is no node {HOME}/none"),
        ("ls web /none", 3, "there is no node /none"),
        ("read web a//b", 2, f"{HOME}/a//b is not a xenstore path"),
        ("rm web /", 2, "the root cannot be removed"),
        ("read mail name", 1, "no domain named mail is running; those that are: web"),
        ("read ../web name", 2, "'../web' cannot be the name of a domain"),
        ("write web name", 2, "each PATH needs a VALUE"),
        ("read web", 2, "missing argument 'PATH...'"),
        ("watch web a//b", 2, f"{HOME}/a//b is not a xenstore path"),
        *(
            (arguments, 2, r"/tool/\udce9 is not a xenstore path")
            for arguments in (
                "ls web /tool/\udce9",
                "read web /tool/\udce9",
                "rm web /tool/\udce9",
                "write web /tool/\udce9 value",
                "watch web /tool/\udce9",
            )
        ),
    ],
)
def test_mistakes(
    store: Store, capsys: pytest.CaptureFixture[str], arguments: str, status: int, sentence: str
) -> None:
    ran = Ran(capsys, *arguments.split())
    assert (ran.status, ran.out) == (status, "")
    assert ran.err.startswith(f"kvmxen: {sentence}")
    assert ran.err.count("\n") == 1


def test_a_value_too_long(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "write", "web", "data/a", "x" * 5000)
    assert ran.status == 4
    assert "longer than 4096 bytes" in ran.err
