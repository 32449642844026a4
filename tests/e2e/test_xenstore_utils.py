"""Debian's xenstore-utils print the same with our socket as with Debian's own daemons.

SESSION contains commands and their output, which is the same for all. LARGE, for xenstored only,
has what oxenstored does not know: directories in parts and paths of more than 1,024 bytes.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from benchmarks.xenstored.daemons import NAMES, running
from kvmxen.xenstore.server.protocol import SOCKET
from kvmxen.xenstore.server.server import Server
from kvmxen.xenstore.store import Store
from tests import packages
from tests.xen_tools import Programs, xen_programs

PATIENCE = 120.0
SESSION = Path(__file__).with_name("xenstore_session.txt").read_text()
MANY = " ".join(f"/test/many/child-{number:04} {number}" for number in range(600))
LARGE = f"""
$ write {MANY}
$ list /test/many
$ ls /test/many
$ rm /test/many
$ write /test/{"n" * 1500} long
$ list /test
$ write /test/{"n" * 3100} 'too long'
$ write /test/long {"v" * 2048}
$ read /test/long
$ write /test/long {"v" * 4096}
$ ls /test
"""


class Session:
    """Runs the tools on the socket at `path`; `transcript` holds everything that was exchanged."""

    def __init__(self, programs: Programs, path: Path) -> None:
        self._programs = programs
        self._folder = path.parent
        # A relative path, as a socket address has room for 107 bytes.
        self._environment = programs.environment(XENSTORED_PATH=path.name, LC_ALL="C")
        self._watch: subprocess.Popen[bytes] | None = None
        self.transcript = ""

    def run(self, session: str) -> str:
        """Run the commands after each `$` in `session`; return them with their output.

        `& COMMAND` starts a watch and waits for its first line, which it prints at once; `wait`
        waits for its end, when it has printed the requested number of lines.
        """
        for line in session.splitlines():
            if not line.startswith("$ "):
                continue
            self.transcript += f"{line}\n"
            match shlex.split(line[2:]):
                case ["wait"]:
                    assert self._watch
                    self._finish(self._watch)
                case ["&", *words]:
                    self._watch = self._start(words)
                    assert self._watch.stdout
                    self.transcript += self._watch.stdout.readline().decode()
                case words:
                    self._finish(self._start(words))
        return self.transcript

    def _start(self, words: list[str]) -> subprocess.Popen[bytes]:
        name = f"xenstore-{words[0]}"
        return subprocess.Popen(
            [name, *words[1:]],
            executable=self._programs.paths[name],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Bytes after the line that was read must not be lost in a buffer.
            bufsize=0,
        )

    def _finish(self, process: subprocess.Popen[bytes]) -> None:
        with process:
            try:
                out, err = process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        status = process.returncode
        self.transcript += (out + err).decode("ascii") + f"[{status}]\n" * bool(status)


@pytest.fixture(scope="module")
def programs() -> Programs:
    try:
        return xen_programs()
    except packages.Unavailable as error:
        pytest.skip(f"needs Debian's xenstore-utils: {error}")


@contextmanager
def ours(folder: Path) -> Iterator[Path]:
    """The socket of a store of ours."""
    faults: list[BaseException] = []
    with Server(Store(), folder / SOCKET, faults.append):
        yield folder / SOCKET
    assert faults == []


@pytest.fixture
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """The socket of Debian's own daemon of that name."""
    with ExitStack() as stack:
        try:
            path = stack.enter_context(running(request.param, tmp_path / "daemon"))
        except packages.Unavailable as error:
            pytest.skip(f"needs Debian's {request.param}: {error}")
        yield path


def test_our_socket(programs: Programs, tmp_path: Path) -> None:
    with ours(tmp_path) as path:
        assert Session(programs, path).run(SESSION) == SESSION


@pytest.mark.parametrize("daemon", NAMES, indirect=True)
def test_the_same_as_debians_own(programs: Programs, daemon: Path) -> None:
    assert Session(programs, daemon).run(SESSION) == SESSION


@pytest.mark.parametrize("daemon", ["xenstored"], indirect=True)
def test_large_and_special(programs: Programs, daemon: Path, tmp_path: Path) -> None:
    with ours(tmp_path) as path:
        assert Session(programs, path).run(LARGE) == Session(programs, daemon).run(LARGE)
