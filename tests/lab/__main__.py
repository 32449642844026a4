"""python -m tests.lab [--kernel 6.12] [--shell] [pytest's arguments]: see `make lab`."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from pathlib import Path

from kvmxen.errors import KvmxenError
from tests.lab.qemu import run
from tests.packages import Unavailable

ROOT = Path(__file__).parents[2]
SUITE = ("tests/guests", "tests/e2e/test_machine.py")
# An emulated call takes a hundred times as long, and the emulator's errors end sooner.
HOSTILE_ROUNDS = 2000
LIMIT = 25 * 60


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    parser.add_argument("--kernel", choices=("6.1", "6.12"), default="6.1")
    parser.add_argument("--shell", action="store_true", help="a shell instead of the tests")
    options, arguments = parser.parse_known_args()
    if options.shell:
        size = shutil.get_terminal_size()
        inside, limit = f"stty cols {size.columns} rows {size.lines}\nexec bash -i", None
    else:
        # The ordinary run's limit, for emulated time.
        pytest = ["pytest", "-p", "no:cacheprovider", "-o", "timeout=900", *(arguments or SUITE)]
        inside, limit = f"exec {shlex.join(pytest)}", LIMIT
    try:
        return run(options.kernel, environment() + inside + "\n", limit=limit)
    except (KvmxenError, Unavailable) as error:
        print(f"kvmxen: {error}", file=sys.stderr)
        return 1


def environment() -> str:
    """Shell lines: the environment of this process's Python, in the repository's folder."""
    values = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TERM": os.environ.get("TERM", "dumb"),
        "HOME": "/run",
        "KVMXEN_HOSTILE_ROUNDS": str(HOSTILE_ROUNDS),
    }
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in values.items()]
    return "".join(lines) + f"cd {shlex.quote(str(ROOT))}\n"


if __name__ == "__main__":
    sys.exit(main())
