"""`python -m benchmarks.lab [JOB]...`: counts the costs of boots and operations; see `make
bench-lab`.

It rewrites the lab's sections of docs/performance.md and its plots. With names of jobs
(benchmarks/lab/jobs.py) it runs only these, and takes the others' results from the last run: they
are counts, so they do not depend on when they were taken.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.lab import image, jobs, machine, plot, report
from benchmarks.page import PAGE, replace
from benchmarks.summary import summarised
from kvmxen.errors import KvmxenError
from tests.packages import Unavailable

_CACHE = Path(__file__).parents[2] / ".cache" / "lab"


def main(names: list[str]) -> int:
    """Run the jobs `names`, or all if there are none; return the exit status."""
    kept = _CACHE / "results.json"
    results = json.loads(kept.read_text()) if names and kept.exists() else {}
    try:
        results |= machine.run(image.build(_CACHE), names)
    except (KvmxenError, Unavailable) as error:
        print(f"kvmxen: {error}", file=sys.stderr)
        return 1
    kept.write_text(json.dumps(results, indent=1))
    if failed := {name: r["failed"] for name, r in results.items() if "failed" in r}:
        for name, output in failed.items():
            print(f"{name} failed:\n{output}", file=sys.stderr)
        return 1
    if missing := jobs.commands().keys() - results.keys():
        print(f"no page yet: {', '.join(sorted(missing))} did not run", file=sys.stderr)
        return 1
    for section, make in report.SECTIONS.items():
        content = make(results)
        print(f"\n{section}\n\n{content}", flush=True)
        PAGE.write_text(summarised(replace(PAGE.read_text(), section, content)))
    plot.draw_boots(results)
    plot.draw_devices(results)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
