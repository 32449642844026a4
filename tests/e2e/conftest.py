"""Fixtures for whole domains: the environment, the guests' ramdisks, the boots."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from kvmxen.domain.initramfs import Entry, build_cpio, folder, program
from tests.conftest import FAILED
from tests.e2e.domain import Boot, Domain, Ramdisk
from tests.e2e.libvirt_server import Server, kvmxen
from tests.resources import has_kvm

PROGRAMS = Path(__file__).parent / "programs"

# hvc0 is /dev/console. The kernel runs /sbin/poweroff to shut down; its signal ends the guest.
PRELUDE = """\
#!/bin/busybox sh
export PATH=/sbin:/bin
/bin/busybox --install -s
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
trap 'poweroff -f' USR2
"""


@pytest.fixture(scope="session")
def kvm() -> None:
    """Skips if no guest can run here."""
    if not has_kvm():
        pytest.skip("needs /dev/kvm, readable and writable")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of decompressed kernels for the whole run."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def environment(cache: Path, tmp_path: Path) -> dict[str, str]:
    """A person's environment, with folders of its own."""
    return os.environ | {
        "XDG_CACHE_HOME": str(cache),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "KVMXEN_RUNTIME_DIR": str(tmp_path / "run"),
        "TMPDIR": str(tmp_path),
    }


@pytest.fixture
def busybox_found(environment: dict[str, str], busybox: Path) -> None:
    """Puts a static busybox where --shell finds it first."""
    environment["PATH"] = f"{busybox.parent}:{environment['PATH']}"


@pytest.fixture
def boot(
    request: pytest.FixtureRequest, kvm: None, environment: dict[str, str], tmp_path: Path
) -> Iterator[Boot]:
    """boot(*arguments, **Domain's) starts a domain; checks at the end that none left a file."""
    with ExitStack() as domains:

        def start(*arguments: str | Path | float, **options: Any) -> Domain:
            return domains.enter_context(Domain(*arguments, environment=environment, **options))

        yield start
    if request.node.stash[FAILED]:
        # The test failed and its domain was killed. It may be run again, which a failure here
        # would prevent.
        return
    left = list((tmp_path / "run").glob("[!.]*/*"))
    assert not left, f"a domain left {left}"


@pytest.fixture(scope="session")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The static program that stresses a guest."""
    out = tmp_path_factory.mktemp("programs") / "workload"
    flags = ("-O2", "-static", "-Wall", "-Wextra", "-Werror")
    command = ["gcc", *flags, "-o", str(out), *map(str, PROGRAMS.glob("*.c"))]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("needs gcc")
    except subprocess.CalledProcessError as error:
        if "cannot find -lc" in error.stderr:
            pytest.skip("needs a static C library (Debian's libc6-dev)")
        raise AssertionError(error.stderr) from error
    return out


@pytest.fixture
def ramdisk(busybox: Path, tmp_path: Path) -> Ramdisk:
    """ramdisk(script, *programs): one whose init runs `script`, with `programs` in /bin."""

    def make(script: str, *programs: Path) -> Path:
        folders = ("bin", "dev", "proc", "sbin", "sys", "tmp", "usr", "usr/bin", "usr/sbin")
        entries = [
            *map(folder, folders),
            Entry("dev/console", 0o20600, device=(5, 1)),
            *(program(f"bin/{path.name}", path.read_bytes()) for path in (busybox, *programs)),
            program("init", (PRELUDE + script).encode()),
        ]
        path = tmp_path / "ramdisk"
        path.write_bytes(build_cpio(entries))
        return path

    return make


@pytest.fixture
def server(kvm: None, environment: dict[str, str], tmp_path: Path) -> Iterator[Server]:
    environment["XDG_CONFIG_HOME"] = str(tmp_path / "config")
    server = Server(environment, tmp_path / "virtxend.sock")
    yield server
    said = server.stop()
    left = kvmxen(environment, "list", "--json")
    for one in json.loads(left):
        kvmxen(environment, "destroy", one["name"])
    assert said == ""
