"""`python -m benchmarks [NAME]...`: runs the benchmarks of those names, by default all.

Each rewrites its sections of docs/performance.md and the summary there. Nothing else should run
meanwhile.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from benchmarks import balloon, block, boot, exits, guest, guest_block, linux, net
from benchmarks.page import PAGE, replace
from benchmarks.summary import summarised
from benchmarks.xenstored import measure as xenstore

_BENCHMARKS: dict[str, Callable[[], dict[str, str]]] = {
    "exits": lambda: {"exits": exits.measure()},
    "guest": lambda: {"guest": guest.measure()},
    "linux": lambda: {"linux": linux.measure()},
    "boot": boot.measure,
    "balloon": lambda: {"balloon": balloon.measure()},
    "block": lambda: {"block": block.measure()},
    "block-guest": lambda: {"block guest": guest_block.measure()},
    "net": lambda: {"net": net.measure()},
    "xenstore": xenstore.measure,
    "xenstore-before": xenstore.compare,
}


def main(names: list[str]) -> int:
    """Run the benchmarks called `names`; return the exit status."""
    if unknown := set(names) - set(_BENCHMARKS):
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(_BENCHMARKS)}")
        return 2
    for name in names or _BENCHMARKS:
        for section, content in _BENCHMARKS[name]().items():
            print(f"\n{section}\n\n{content}", flush=True)
            PAGE.write_text(summarised(replace(PAGE.read_text(), section, content)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
