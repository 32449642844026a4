"""A guest's programs can use hardware breakpoints and steps, local descriptor tables, 32-bit
code.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.domain import LIMIT, Boot, Domain, Ramdisk

FOLDER = Path(__file__).parent / "cpu"
# No C library, which may be missing for 32-bit code.
FLAGS = {
    ".c": ("-O2", "-static", "-Wall", "-Wextra", "-Werror"),
    ".S": ("-m32", "-nostdlib", "-static", "-no-pie"),
}

Run = Callable[..., Domain]

pytestmark = pytest.mark.parametrize("shim", ["dispatch", "exits"])


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The static programs of the folder cpu."""
    out = tmp_path_factory.mktemp("cpu")
    made = []
    for source in sorted(FOLDER.iterdir()):
        made.append(out / source.stem)
        command = ["gcc", *FLAGS[source.suffix], "-o", str(made[-1]), str(source)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("needs gcc")
        except subprocess.CalledProcessError as error:
            if "cannot find -lc" in error.stderr:
                pytest.skip("needs a static C library (Debian's libc6-dev)")
            raise AssertionError(error.stderr) from error
    return made


@pytest.fixture
def run(
    boot: Boot,
    debian_kernel: Callable[[str], Path],
    ramdisk: Ramdisk,
    programs: list[Path],
    shim: str,
) -> Run:
    """run(*commands): each must end with status 0 in a Debian guest, which must stay healthy."""

    def start(*commands: str) -> Domain:
        lines = [f"{command}; echo [$?]\n" for command in commands]
        image = ramdisk("".join(lines) + "poweroff -f\n", *programs)
        options = ("--cmdline", "console=hvc0 quiet", "--shim", shim, "--timeout", LIMIT)
        domain = boot(debian_kernel("6.1"), "--ramdisk", image, *options)
        for command in commands:
            output, status = domain.expect(r"((?:.*\n)?)\[(\d+)\]").groups()
            assert status == "0", f"{command}: {output}"
        domain.ends(0)
        return domain

    return start


def test_on_any_host(run: Run) -> None:
    run("breakpoints step held", "compat")


@pytest.mark.needs_breakpoints
def test_breakpoints(run: Run) -> None:
    run("breakpoints write execute held-to-the-end")


@pytest.mark.needs_segments
def test_segments(run: Run) -> None:
    run("ldt", "compat segments")
