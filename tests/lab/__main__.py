"""python -m tests.lab [--kernel 6.12] [--shell] [--all] [pytest's arguments]: see `make lab`."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from datetime import date
from pathlib import Path

from kvmxen.errors import KvmxenError
from tests import packages
from tests.lab.qemu import run
from tests.lab.rotation import HALF_VARIABLE
from tests.packages import Unavailable

ROOT = Path(__file__).parents[2]
# The tests by default: those that depend on the kind of KVM.
SUITE = (
    "tests/lab/test_inside.py",
    "tests/unit/test_features.py::test_this_host",
    "tests/guests",
    "tests/e2e/test_machine.py",
    "tests/e2e/test_cpu.py",
    "tests/e2e/test_ends.py",
    "tests/e2e/test_linux.py",
    "tests/e2e/test_registers.py::test_registers[dispatch-2]",
    "tests/e2e/test_disks.py::test_a_file_system",
    "tests/e2e/test_network.py::test_tap",
)
# Unless -k says otherwise: one of the two kernels, a few of the tests that are the same
# everywhere, and one of each kind. A kernel in ring 3 cannot overwrite a dispatcher in ring 0.
LEFT_OUT = (
    "6.12 or workload or reboot or sizes and not 2-1024 or escape or wall_clock"
    " or scribble and not 1-0 or sequence and (1-2 or 1-3) or hostile and (2 or 3)"
    " or confined and 2-exits or smp and (3 or 8)"
    " or test_cpu and exits"
    " or no_console or in_a_file or on_a_pty or for_a_person"
)
KERNEL_VARIABLE = "KVMXEN_LAB"
VALUES = {
    # A call takes a hundred times as long in the lab, and the emulator's errors end sooner.
    "KVMXEN_HOSTILE_ROUNDS": "2000",
    "KVMXEN_SLOWNESS": "10",
}
# The output of a test that such an error ended; see docs/lab.md.
EMULATORS_FAULTS = ("triple fault", "from pytest-timeout")
KEEPER = "python -m tests.lab.keep_kvm_in_use"
TEST_LIMIT = 400
# After this long the lab hangs: it takes a quarter of that on two idle CPUs.
LIMIT = 60 * 60


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    parser.add_argument("--kernel", choices=("6.1", "6.12"), default="6.1")
    parser.add_argument("--shell", action="store_true", help="a shell instead of the tests")
    parser.add_argument("--all", action="store_true", help="not only the half that is today's")
    options, arguments = parser.parse_known_args()
    if options.shell:
        size = shutil.get_terminal_size()
        inside, limit = f"stty cols {size.columns} rows {size.lines}\nexec bash -i", None
    else:
        # Inside, the output is always a terminal.
        color = "yes" if sys.stdout.isatty() else "no"
        pytest = ["pytest", f"--color={color}", "-p", "no:cacheprovider"]
        pytest += ["-o", f"timeout={TEST_LIMIT}"]
        pytest += ["--reruns", "2"]
        for fault in EMULATORS_FAULTS:
            pytest += ["--only-rerun", fault]
        if not any(Path(argument.partition("::")[0]).exists() for argument in arguments):
            pytest += [*SUITE, "-k", f"not ({LEFT_OUT})"]
            if not options.all:
                pytest += ["-p", "tests.lab.rotation"]
        pytest += arguments
        inside, limit = f"stty -onlcr\nexec {shlex.join(pytest)}", LIMIT
    try:
        # The lab has no network.
        packages.fetch_all()
        script = f"{environment(options.kernel)}{KEEPER} &\n{inside}\n"
        return run(options.kernel, script, limit=limit)
    except (KvmxenError, Unavailable) as error:
        print(f"kvmxen: {error}", file=sys.stderr)
        return 1


def environment(version: str) -> str:
    """Shell lines that set up this process's Python environment, in the repository's folder."""
    values = VALUES | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TERM": os.environ.get("TERM", "dumb"),
        "HOME": "/dev/lab",
        "TMPDIR": "/dev/lab",
        KERNEL_VARIABLE: version,
        HALF_VARIABLE: str(date.today().toordinal() % 2),
    }
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in values.items()]
    return "".join(lines) + f"cd {shlex.quote(str(ROOT))}\n"


if __name__ == "__main__":
    sys.exit(main())
