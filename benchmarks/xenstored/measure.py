"""Compares our xenstore on its socket with Debian's own daemons: the same client, in turn."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from tempfile import TemporaryDirectory

from benchmarks.page import table
from benchmarks.sample import Pair, Sample
from benchmarks.xenstored import daemons, plot
from kvmxen.xenstore.server.listener import connect
from tests.packages import Unavailable

OPERATIONS = ("read", "write", "directory", "transaction", "watch")
NODES = (10, 1000, 100_000)
CLIENTS = (1, 32)
DOMAINS = 300
_ROUNDS = 5
_SECONDS = 0.2
_STARTS = 3
_START_LIMIT = 10.0
_UCRED = Struct("iII")
_HERE = Path(__file__).parent
_PATIENCE_SECONDS = 60.0
# Another checkout to compare with, built in an environment of its own.
_BASELINE = "KVMXEN_BASELINE"

# Starts a server in an empty folder; gives its socket.
Server = Callable[[Path], AbstractContextManager[Path]]


@dataclass(frozen=True)
class Client:
    """The measuring client: see client.c."""

    program: Path

    @classmethod
    def build(cls, folder: Path) -> Client:
        """Compile it into `folder`; raises Unavailable."""
        compiler = shutil.which("gcc")
        if compiler is None:
            raise Unavailable("this host has no gcc")
        program = folder / "client"
        flags = ("-O2", "-Wall", "-Wextra", "-Werror", f"-I{_HERE.parents[1] / 'kvmxen'}")
        subprocess.run([compiler, *flags, "-o", program, _HERE / "client.c"], check=True)
        return cls(program)

    def fill(self, path: Path, nodes: range) -> None:
        """Create the nodes with those numbers."""
        self._run(path, "fill", nodes.start, nodes.stop)

    def rate(self, path: Path, operation: str, nodes: int, clients: int) -> tuple[float, float]:
        """The operations per second, and the us of CPU that the server used for each."""
        server = _listener(path)
        before = _cpu_ns(server)
        rate, count = self._run(path, operation, nodes, clients, _SECONDS)
        return float(rate), (_cpu_ns(server) - before) / 1000 / int(count)

    def start(self, path: Path) -> tuple[float, int]:
        """The seconds until DOMAINS have started at once, and the number of repeated transactions.

        More than _START_LIMIT seconds count as infinitely many.
        """
        try:
            seconds, again = self._run(path, "start", DOMAINS, timeout=_START_LIMIT)
        except subprocess.TimeoutExpired:
            return float("inf"), 0
        return float(seconds), int(again)

    def _run(self, path: Path, *arguments: object, timeout: float | None = None) -> list[str]:
        return subprocess.run(
            [self.program, path.name, *map(str, arguments)],
            cwd=path.parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=timeout,
        ).stdout.split()


@contextmanager
def ours(folder: Path, checkout: Path | None = None) -> Iterator[Path]:
    """The socket of a store of ours, or of another checkout's."""
    python = str(checkout / ".venv/bin/python") if checkout else sys.executable
    path = folder / "socket"
    with subprocess.Popen([python, _HERE / "serve.py", path]) as process:
        try:
            end = time.monotonic() + _PATIENCE_SECONDS
            while not _listens(path):
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"{python} does not serve")
                time.sleep(0.01)
            yield path
        finally:
            process.kill()


def measure() -> dict[str, str]:
    """The sections of operations per second, by clients, and of starts; and the plot."""
    with TemporaryDirectory() as name:
        client = Client.build(Path(name))
        rates = _rates(client, {"kvmxen": ours, **_debians()})
        plot.draw(rates, NODES[1])
        return {
            **{f"xenstore {n}": rate_table(rates, n, ["oxenstored", "xenstored"]) for n in CLIENTS},
            "xenstore start": _starts(client),
        }


def compare() -> dict[str, str]:
    """Print operations per second against a baseline, if one is named; no page has them."""
    checkout = os.environ.get(_BASELINE)
    if not checkout:
        return {}

    def before(folder: Path) -> AbstractContextManager[Path]:
        return ours(folder, Path(checkout))

    with TemporaryDirectory() as name:
        rates = _rates(Client.build(Path(name)), {"kvmxen": ours, "before": before})
    for clients in CLIENTS:
        print(f"\n{rate_table(rates, clients, ['before'])}", flush=True)
    return {}


def _debians() -> dict[str, Server]:
    def of(name: str) -> Server:
        return lambda folder: daemons.running(name, folder)

    return {name: of(name) for name in daemons.NAMES}


def _listens(path: Path) -> bool:
    """Whether somebody accepts: the socket's file exists a little earlier."""
    try:
        connect(path).close()
    except OSError:
        return False
    return True


def _listener(path: Path) -> int:
    """The process that listens at `path` (SO_PEERCRED, unix(7))."""
    with connect(path) as probe:
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        return int(_UCRED.unpack(credentials)[0])


def _cpu_ns(process: int) -> int:
    """The CPU time of a process's threads, in ns (Linux's Documentation/scheduler/sched-stats)."""
    threads = Path(f"/proc/{process}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads)


@dataclass(frozen=True)
class Taken:
    """The measurements of one server: operations per second, and us of its CPU for each."""

    rate: Sample
    cost: Sample

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]]) -> Taken:
        """Create it from pairs of both values."""
        return cls(*map(Sample.of, zip(*pairs, strict=True)))


# By operation, nodes and clients: the samples of each server, taken in turn.
Rates = dict[tuple[str, int, int], dict[str, Taken]]


def _rates(client: Client, servers: dict[str, Server]) -> Rates:
    rates: Rates = {}
    with ExitStack() as stack:
        paths = {name: _started(stack, server) for name, server in servers.items()}
        made = 0
        for nodes in NODES:
            for path in paths.values():
                client.fill(path, range(made, nodes))
            made = nodes
            for operation in OPERATIONS:
                for clients in CLIENTS:
                    taken = [
                        [client.rate(path, operation, nodes, clients) for path in paths.values()]
                        for _ in range(_ROUNDS + 1)
                    ][1:]
                    columns = map(Taken.of, zip(*taken, strict=True))
                    rates[operation, nodes, clients] = dict(zip(paths, columns, strict=True))
    return rates


def _started(stack: ExitStack, server: Server) -> Path:
    folder = Path(stack.enter_context(TemporaryDirectory()))
    return stack.enter_context(server(folder))


def rate_table(rates: Rates, clients: int, others: list[str]) -> str:
    """The table of thousands of operations per second, and of our ratios to the others'."""
    names = ("kvmxen", *others)
    rows = []
    for operation in OPERATIONS:
        for nodes in NODES:
            of = rates[operation, nodes, clients]
            ratios = [Pair(of["kvmxen"].rate, of[other].rate).ratio.show(".2f") for other in others]
            shown = [f"{of[name].rate.median / 1000:.1f}" for name in names]
            costs = [f"{of[name].cost.median:.1f}" for name in names]
            rows.append([f"{operation}, {nodes:,} nodes", *shown, *ratios, " / ".join(costs)])
    of_clients = "one client" if clients == 1 else f"{clients} clients"
    ratios = [f"to {name}" for name in others]
    head = [f"{of_clients}, thousands/s", *names, *ratios, f"us of CPU: {' / '.join(names)}"]
    return table(head, rows)


def _starts(client: Client) -> str:
    servers = {"kvmxen": ours, **_debians()}
    taken: dict[str, list[tuple[float, int]]] = {name: [] for name in servers}
    for _ in range(_STARTS):
        for name, server in servers.items():
            with ExitStack() as stack:
                taken[name].append(client.start(_started(stack, server)))
    rows = []
    for name, starts in taken.items():
        seconds = Sample.of([start[0] for start in starts])
        again = Sample.of([start[1] for start in starts])
        if seconds.median == float("inf"):
            rows.append([name, f"more than {_START_LIMIT:.0f}", "without end"])
        else:
            rows.append([name, seconds.show(".2f"), again.show(".0f")])
    return table([f"{DOMAINS} domains start", "seconds", "transactions made again"], rows)
