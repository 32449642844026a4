"""Standard input, output and error that are closed, full, or disappear midway."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.domain import LIMIT, PATIENCE, ROOT, SLOWNESS, Boot

CLOSED = ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"]

Kvmxen = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def kvmxen(environment: dict[str, str]) -> Kvmxen:
    """kvmxen(redirections, *arguments) runs it from a shell with these redirections."""

    def run(redirections: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, "-m", "kvmxen"]
            + [str(argument) for argument in arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE * SLOWNESS,
        )

    return run


@pytest.mark.parametrize("redirections", CLOSED)
def test_a_domain_without_some_of_them_ends_in_time(
    kvm: None, kvmxen: Kvmxen, pv_grub: Path, redirections: str
) -> None:
    done = kvmxen(redirections, "boot", pv_grub, "--timeout", str(2 * SLOWNESS))
    assert done.returncode == 4, done.stderr
    if "2>" not in redirections:
        assert done.stderr == "kvmxen: the time limit is reached: destroying the guest\n"


@pytest.mark.parametrize("redirections", CLOSED)
def test_a_guest_goes_its_way_without_some_of_them(
    kvm: None, kvmxen: Kvmxen, redirections: str
) -> None:
    done = kvmxen(redirections, "boot", "--stats")
    assert done.returncode == 0, done.stderr
    assert ("null hypercall" in done.stdout) == (">&-" not in redirections.replace("2>&-", ""))
    assert ("exits_total" in done.stderr) == ("2>" not in redirections)


@pytest.mark.parametrize("redirections", CLOSED)
@pytest.mark.parametrize(
    ("arguments", "status"), [("--version", 0), ("boot --vcpus 0", 2), ("top no-domain", 1)]
)
def test_other_commands_without_some_of_them(
    kvmxen: Kvmxen, redirections: str, arguments: str, status: int
) -> None:
    done = kvmxen(redirections, *arguments.split())
    assert done.returncode == status
    assert "Traceback" not in done.stderr


def test_a_full_disk_behind_stderr_changes_no_status(kvm: None, kvmxen: Kvmxen) -> None:
    assert kvmxen("2>/dev/full", "boot", "--vcpus", "0").returncode == 2
    done = kvmxen("2>/dev/full", "boot", "--stats")
    assert (done.returncode, done.stderr) == (0, "")
    assert "null hypercall" in done.stdout


def test_a_full_disk_behind_stdout(kvmxen: Kvmxen) -> None:
    done = kvmxen(">/dev/full", "--help")
    assert done.returncode == 1
    assert done.stderr == "kvmxen: the disk is full: free some space\n"


@pytest.mark.parametrize(
    ("redirections", "arguments"),
    [(">/dev/full", ()), ("", ("--console", "file:/dev/full"))],
)
def test_a_full_disk_behind_the_console(
    kvm: None, kvmxen: Kvmxen, redirections: str, arguments: tuple[str, ...]
) -> None:
    done = kvmxen(redirections, "boot", *arguments)
    assert done.returncode == 0
    assert done.stderr == (
        "kvmxen: console output is lost until it can be written again: No space left on device\n"
    )


def test_a_reader_that_goes(boot: Boot) -> None:
    domain = boot("--timeout", LIMIT)
    # As with `| head -1`.
    domain.look_away()
    domain.ends(0)
    assert domain.stderr == (
        "kvmxen: console output is lost until it can be written again: the reader has gone\n"
    )
