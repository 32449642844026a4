"""A boot of a known kernel imports only what it needs."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.domain import LIMIT, ROOT, SLOWNESS, Ramdisk

# Modules from outside kvmxen; whatever they import in turn is allowed.
NEEDED = {
    "atexit", "click", "ctypes", "dataclasses", "fcntl", "grp", "heapq", "json", "math", "mmap",
    "pwd", "queue", "resource", "select", "selectors", "shutil", "signal", "socket", "struct",
    "termios", "threading", "tty", "typing", "uuid", "weakref", "zlib",
    # gettext imports it when click translates its first message.
    "locale",
}  # fmt: skip
# Modules of kvmxen that only a kernel's first boot needs, or a crash's symbols, or unused options.
NOT_NEEDED = {
    "kvmxen.xen.abi.xs_state",
    "kvmxen.xen.abi.layouts",
    "kvmxen.backends.block",
    "kvmxen.backends.net",
    "kvmxen.cli.doctor",
    "kvmxen.cli.hotplug",
    "kvmxen.cli.top",
    "kvmxen.cli.xenstore",
    "kvmxen.domain.control.client",
    "kvmxen.domain.control.commands",
    "kvmxen.domain.control.requests",
    "kvmxen.domain.description",
    "kvmxen.domain.watch",
    "kvmxen.front",
    "pycdlib",
    "kvmxen.domain.doctor",
    "kvmxen.guests._build",
    "kvmxen.domain.initramfs",
    "kvmxen.loader.bzimage",
    "kvmxen.loader.decompress",
    "kvmxen.loader.elf_reader",
    "kvmxen.loader.guest_section",
    "kvmxen.loader.symbols",
    "kvmxen.loader.unpack",
    "kvmxen.domain.modules",
    "kvmxen.pv.programs",
    "kvmxen.ring.shared_ring",
    "kvmxen.xenstore.dump",
    "kvmxen.xenstore.load",
    "kvmxen.xenstore.server.client",
    "kvmxen.xenstore.server.entries",
    "kvmxen.xenstore.server.journal",
}
PROGRAM = """
import pathlib, sys
from kvmxen.cli import main
status = main(sys.argv[2:])
pathlib.Path(sys.argv[1]).write_text("\\n".join(sys.modules))
sys.exit(status)
"""

Imported = Callable[..., set[str]]


@pytest.fixture
def imported(kvm: None, environment: dict[str, str], tmp_path: Path) -> Imported:
    """imported(*arguments): the modules that `kvmxen boot ARGUMENTS` imports."""

    def boot(*arguments: str | Path) -> set[str]:
        names = tmp_path / "modules"
        options = ("--console", "none", "--timeout", LIMIT * SLOWNESS)
        command = [sys.executable, "-c", PROGRAM, names, "boot", *options, *arguments]
        subprocess.run(list(map(str, command)), cwd=ROOT, env=environment, check=True)
        return set(names.read_text().split())

    return boot


def allowed() -> set[str]:
    """The modules that this Python imports for the needed ones."""
    program = f"import sys, {', '.join(sorted(NEEDED))}; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(run.stdout.split())


def check(modules: set[str]) -> None:
    assert "kvmxen.pv.machine" in modules
    # Cython's own modules have no files.
    public = {name for name in modules if not name.startswith("_")} - {"cython_runtime"}
    ours = {name for name in public if name.partition(".")[0] == "kvmxen"}
    assert public - ours - allowed() == set()
    assert NEEDED - modules == set()
    assert {
        name
        for name in ours
        if any(f"{name}.".startswith(f"{unneeded}.") for unneeded in NOT_NEEDED)
    } == set()


def test_the_demo_guest(imported: Imported) -> None:
    imported()
    check(imported())


def test_debian(imported: Imported, debian_kernel: Callable[[str], Path], ramdisk: Ramdisk) -> None:
    arguments = (debian_kernel("6.1"), "--ramdisk", ramdisk("poweroff -f\n"))
    imported(*arguments)
    check(imported(*arguments))


def test_the_first_boot_is_another(
    imported: Imported, environment: dict[str, str], tmp_path: Path
) -> None:
    """Without the cache they are imported: the cache makes the difference."""
    environment["XDG_CACHE_HOME"] = str(tmp_path / "nothing yet")
    assert {"elftools", "kvmxen.loader.elf_reader"} <= imported()


@pytest.mark.parametrize("name", sorted(NOT_NEEDED))
def test_what_is_not_needed_is_there(name: str) -> None:
    assert importlib.util.find_spec(name)


def test_a_boot_writes_to_the_cache_and_nowhere_else(
    imported: Imported, environment: dict[str, str], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environment["HOME"] = str(home)
    del environment["XDG_CACHE_HOME"]
    imported()
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "modules"]
    notes = {path for path in written if path.is_relative_to(tmp_path / "run")}
    assert sorted(path.suffix for path in notes) == ["", ".json"]
    (facts,) = set(written) - notes
    assert facts.parent == home / ".cache/kvmxen"
    assert facts.suffix == ".facts"


def test_a_boot_without_a_home(imported: Imported, environment: dict[str, str]) -> None:
    environment["HOME"] = "/proc/none"
    del environment["XDG_CACHE_HOME"]
    for _ in range(2):
        assert "elftools" in imported()
