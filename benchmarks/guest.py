"""Measures a guest's costs: the loops of tests/guests/bench, timed by the guest's own clock."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.page import table
from benchmarks.sample import Pair, Sample
from kvmxen.guests._build import compile_guest

SOURCES = Path(__file__).parent.parent / "tests" / "guests" / "bench"
_ROUNDS = 2000
_RUNS = 9

OPERATIONS = {
    "null_hypercall": "null hypercall (`xen_version`)",
    "update_va_mapping": "`update_va_mapping` of a live entry",
    "event_to_self": "event to itself, until its handler has run",
    "user_syscall": "system call of a guest program, and back",
    "page_fault": "page fault, handled by the guest's kernel",
    "breakpoint": "breakpoint, handled by the guest's kernel",
    "forced_cpuid": "`cpuid` by the forced-emulation prefix",
    "port_io": "port read of the guest's kernel",
}


def parse(output: str) -> dict[str, int]:
    """Parse the lines "BENCH name ns" of a guest's output; raises ValueError for any other."""
    found = {}
    for line in output.splitlines():
        if line.startswith("BENCH "):
            match = re.fullmatch(r"BENCH (\w+) (\d+)\s*", line)
            if not match:
                raise ValueError(f"the guest printed {line!r}")
            found[match[1]] = int(match[2])
    return found


def boot(kernel: Path, shim: str, *options: str) -> str:
    """A guest's output until it powers off; raises RuntimeError if it does not."""
    command = [sys.executable, "-m", "kvmxen", "boot", str(kernel), "--timeout", "120"]
    result = subprocess.run(
        [*command, "--shim", shim, *options],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if result.returncode:
        raise RuntimeError(f"the guest failed:\n{result.stdout}{result.stderr}")
    return result.stdout


def both_ways(
    run: Callable[[str], Mapping[str, float]],
) -> list[tuple[Mapping[str, float], Mapping[str, float]]]:
    """The results of `run(shim)` with the dispatcher and without, in turn."""
    return [(run("dispatch"), run("exits")) for _ in range(_RUNS)]


def _run(guest: Path, shim: str) -> dict[str, int]:
    output = boot(guest, shim, "--cmdline", f"rounds={_ROUNDS}")
    if "SUCCESS" not in output:
        raise RuntimeError(f"the guest failed:\n{output}")
    return parse(output)


def measure() -> str:
    """The table."""
    with TemporaryDirectory() as folder:
        guest = Path(folder) / "bench.elf"
        compile_guest(sorted(SOURCES.glob("*.[cS]")), guest)
        return report(OPERATIONS, both_ways(lambda shim: _run(guest, shim)))


def report(
    operations: Mapping[str, str], runs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]
) -> str:
    """The table of the runs' results: ns of each operation with the dispatcher and without."""
    rows = []
    for name, words in operations.items():
        both = Pair(*(Sample.of([run[way][name] / 1e3 for run in runs]) for way in (0, 1)))
        figures = both.first.show(".1f"), both.second.show(".1f"), both.ratio.show(".3f")
        rows.append([words, *figures])
    return table(["operation", "us", "us, `--shim exits`", "time ratio"], rows)
