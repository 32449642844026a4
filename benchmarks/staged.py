"""`python -m benchmarks.staged SPAWNED ARGUMENT...`: kvmxen, with the ends of a boot's stages.

SPAWNED is the monotonic clock, in ns, at the start of this process. The arguments are those of
`kvmxen`, with --stats=json, whose object gets two more members: `stages_ns`, from SPAWNED to the
end of each stage, and `memory_kib`, the process's memory after the guest has ended.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.memory import resident
from kvmxen.cli import main
from kvmxen.domain import images, recipe
from kvmxen.domain.run import Run
from kvmxen.loader.kernel import load_kernel
from kvmxen.pv.machine import Machine

_spawned = int(sys.argv[1])
_stages: dict[str, int] = {}


def _mark(stage: str) -> None:
    _stages[stage] = time.monotonic_ns() - _spawned


def _marked(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **keywords: Any) -> Any:
        result = function(*arguments, **keywords)
        _mark(stage)
        return result

    return call


class _Run(Run):
    def start(self) -> None:
        super().start()
        _mark("domain")

    def figures(self) -> dict[str, object]:
        memory = resident(Path("/proc/self/smaps").read_text())
        return super().figures() | {"stages_ns": _stages, "memory_kib": memory}


_mark("python")
vars(images).update(load_kernel=_marked("kernel", load_kernel))
vars(recipe).update(Machine=_marked("machine", Machine), Run=_Run)
sys.exit(main(sys.argv[2:]))
