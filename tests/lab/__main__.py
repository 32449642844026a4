"""python -m tests.lab [--kernel 6.12] [--shell] [--all] [pytest's arguments]: see `make lab`."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from datetime import date
from pathlib import Path

import pytest

from kvmxen.errors import KvmxenError
from tests import packages
from tests.lab.progress import DONE_VARIABLE, ended
from tests.lab.qemu import run
from tests.lab.rotation import PART_VARIABLE, PARTS
from tests.packages import Unavailable

ROOT = Path(__file__).parents[2]
# The tests by default: those that depend on the kind of KVM.
SUITE = (
    "tests/lab/test_inside.py",
    "tests/unit/pv/test_features.py::test_this_host",
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
# A machine hangs if no test begins or ends for so many seconds.
SILENCE = TEST_LIMIT + 200
# A panic of the emulated machine is no test's fault (docs/lab.md); three in one run are a failure.
MACHINES = 3


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    parser.add_argument("--kernel", choices=("6.1", "6.12"), default="6.1")
    parser.add_argument("--shell", action="store_true", help="a shell instead of the tests")
    parser.add_argument("--all", action="store_true", help="not only the third that is today's")
    options, arguments = parser.parse_known_args()
    try:
        # The lab has no network.
        packages.fetch_all()
        before = f"{environment(options.kernel)}{KEEPER} &\n"
        if options.shell:
            return shell(options.kernel, before)
        return tests(options.kernel, before, pytest_command(arguments, all_of_them=options.all))
    except (KvmxenError, Unavailable) as error:
        print(f"kvmxen: {error}", file=sys.stderr)
        return 1


def shell(version: str, before: str) -> int:
    size = shutil.get_terminal_size()
    end = run(version, f"{before}stty cols {size.columns} rows {size.lines}\nexec bash -i")
    if end.status is None:
        raise KvmxenError(f"the lab's machine died:\n{end.last_words}")
    return end.status


def pytest_command(arguments: list[str], *, all_of_them: bool) -> list[str]:
    # Inside, the output is always a terminal.
    color = "yes" if sys.stdout.isatty() else "no"
    command = ["pytest", f"--color={color}", "-p", "no:cacheprovider", "-p", "tests.lab.progress"]
    command += ["-o", f"timeout={TEST_LIMIT}"]
    command += ["--reruns", "2"]
    for fault in EMULATORS_FAULTS:
        command += ["--only-rerun", fault]
    if not any(Path(argument.partition("::")[0]).exists() for argument in arguments):
        command += [*SUITE, "-k", f"not ({LEFT_OUT})"]
        if not all_of_them:
            command += ["-p", "tests.lab.rotation"]
    return command + arguments


def tests(version: str, before: str, command: list[str]) -> int:
    """Run pytest in the lab, and the rest of the tests in a new machine if the lab's own dies.

    Returns pytest's exit status; 1 if a test failed in an earlier machine. Raises KvmxenError as
    `run` does, and if all of the MACHINES died.
    """
    done: dict[str, bool] = {}
    for _ in range(MACHINES):
        names = shlex.quote("\n".join(done))
        script = (
            f"{before}export {DONE_VARIABLE}={names}\nstty -onlcr\nexec {shlex.join(command)}\n"
        )
        end = run(version, script, silence=SILENCE)
        status = end.status
        if done and status == pytest.ExitCode.NO_TESTS_COLLECTED:
            status = 0
        done |= ended(end.log)
        if status is not None:
            return status or int(not all(done.values()))
        print(f"\nlab: the machine died after {len(done)} tests:\n{end.last_words}", flush=True)
    raise KvmxenError(f"{MACHINES} of the lab's machines died before the tests ended")


def environment(version: str) -> str:
    """Shell lines that set up this process's Python environment, in the repository's folder."""
    values = VALUES | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TERM": os.environ.get("TERM", "dumb"),
        "HOME": "/dev/lab",
        "TMPDIR": "/dev/lab",
        KERNEL_VARIABLE: version,
        PART_VARIABLE: str(date.today().toordinal() % PARTS),
    }
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in values.items()]
    return "".join(lines) + f"cd {shlex.quote(str(ROOT))}\n"


if __name__ == "__main__":
    sys.exit(main())
