"""Measures exits per second: kvmxen's loop against loop.c, on the same vCPU with the same guest
code.
"""

from __future__ import annotations

import ctypes
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.page import table
from benchmarks.sample import Pair, in_turn
from kvmxen.pv.machine import Machine
from kvmxen.pv.run import run as vcpu_loop
from kvmxen.pv.shim.abi import constants
from kvmxen.pv.shim.plan import plan
from kvmxen.pv.snippet import load_code

_HERE = Path(__file__).parent
_MEMORY = 32 << 20
_EXITS = 2000
_PAIRS = 21
_C = constants()


class _Vcpu(ctypes.Structure):
    """loop.c's struct vcpu."""

    _fields_ = (
        ("fd", ctypes.c_int),
        ("run", ctypes.c_void_p),
        ("part", ctypes.c_void_p),
        ("part_va", ctypes.c_uint64),
    )


class Bench:
    """The C loop and the guest's code, built in `folder`; each method returns ns per exit."""

    def __init__(self, folder: Path) -> None:
        library, code = folder / "loop.so", folder / "guest.bin"
        include = f"-I{_HERE.parent / 'kvmxen'}"
        _gcc("-O2", "-Wall", "-Werror", "-shared", "-fPIC", include, "-o", library, "loop.c")
        _gcc("-nostdlib", "-static", "-Wl,--oformat=binary,-Ttext=0,-e0", "-o", code, "guest.S")
        self._library = ctypes.CDLL(str(library))
        for name, arguments in {"lists": 1, "hypercalls": 2}.items():
            function = getattr(self._library, name)
            function.restype = ctypes.c_long
            function.argtypes = [ctypes.POINTER(_Vcpu), *[ctypes.c_uint64] * arguments]
        self._code = code.read_bytes()

    @contextmanager
    def _machine(self) -> Iterator[tuple[Machine, threading.Event]]:
        over = threading.Event()
        layout = plan(_MEMORY, 1)
        machine = Machine(layout, ended=lambda _: over.set(), dispatcher=False)
        try:
            load_code(machine, self._code, _EXITS)
            # The C loops load no page tables.
            machine.cpus[0].vcpu.flush()
            yield machine, over
        finally:
            machine.close()

    def lists(self) -> float:
        """Measures work lists of the gate, through PvVcpu.flush."""
        with self._machine() as (machine, _):
            vcpu = machine.cpus[0].vcpu

            def run() -> None:
                for _ in range(_EXITS):
                    vcpu.invlpg(0)
                    vcpu.flush()

            return _timed(run)

    def traps(self) -> float:
        """Measures hypercalls that PvVcpu.run returns, without an answer."""
        with self._machine() as (machine, _):
            vcpu = machine.cpus[0].vcpu

            def run() -> None:
                for _ in range(_EXITS):
                    vcpu.run()

            return _timed(run)

    def hypercalls(self) -> float:
        """Measures hypercalls answered in Python, by a whole machine with its thread."""
        with self._machine() as (machine, over):

            def run() -> None:
                machine.start(vcpu_loop)
                over.wait()

            return _timed(run)

    def c_lists(self) -> float:
        """lists, in C."""
        with self._machine() as (machine, _):
            return self._c(machine, "lists", _EXITS)

    def c_hypercalls(self) -> float:
        """hypercalls, in C."""
        with self._machine() as (machine, _):
            vcpu = machine.cpus[0].vcpu
            return self._c(machine, "hypercalls", vcpu.rip, vcpu.rsi)

    def _c(self, machine: Machine, name: str, *arguments: int) -> float:
        fd = machine.cpus[0].fd
        part = machine.image.vcpu_gpa(0)
        mapped = (ctypes.c_uint8 * len(fd.run)).from_buffer(fd.run)
        vcpu = _Vcpu(
            fd.fd,
            ctypes.addressof(mapped),
            machine.memory.host_address + part,
            _C["SHIM_VA"] + part,
        )

        def run() -> None:
            if getattr(self._library, name)(vcpu, *arguments) < _EXITS:
                raise RuntimeError(f"loop.c: {name} met an exit that it does not know")

        taken = _timed(run)
        # The mapping cannot be closed while it is in use.
        del mapped
        return taken


def _gcc(*arguments: str | Path) -> None:
    subprocess.run(["gcc", *arguments], cwd=_HERE, check=True)


def _timed(run: Callable[[], None]) -> float:
    start = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - start) / _EXITS


def measure() -> str:
    """The table."""
    with TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        return report(
            {
                "a list of the gate, in Cython": (
                    in_turn(bench.lists, bench.c_lists, _PAIRS),
                    1.05,
                ),
                "a hypercall, brought by Cython to Python": (
                    in_turn(bench.traps, bench.c_hypercalls, _PAIRS),
                    1.05,
                ),
                "a hypercall, answered in Python": (
                    in_turn(bench.hypercalls, bench.c_hypercalls, _PAIRS),
                    1.30,
                ),
            }
        )


def report(pairs: dict[str, tuple[Pair, float]]) -> str:
    """The table of `pairs`, each with its target ratio."""
    return table(
        ["exit", "kvmxen, exits/s", "C, exits/s", "kvmxen, us", "C, us", "time ratio", "goal"],
        [
            [
                name,
                f"{1e9 / pair.first.median:,.0f}",
                f"{1e9 / pair.second.median:,.0f}",
                f"{pair.first.median / 1e3:.1f}",
                f"{pair.second.median / 1e3:.1f}",
                pair.ratio.show(".3f"),
                f"{goal:.2f}",
            ]
            for name, (pair, goal) in pairs.items()
        ],
    )
