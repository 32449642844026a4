"""Each guest of our own proves the claim at the head of its main.c: it prints SUCCESS, or fails."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmxen.loader.cache import _SETTLED_NS
from tests.e2e.domain import LIMIT, Boot

FOLDER = Path(__file__).parent
# These need more than a boot: see their own tests.
OTHERS = {
    "bench",
    "blkfront",
    "breakpoints",
    "confined",
    "console",
    "counts",
    "endless",
    "eventloop",
    "hostile",
    "initialise",
    "lists",
    "netfront",
    "races",
    "scribble",
    "sequence",
    "smp",
}
# Operations that host and dispatcher must perform alike.
BOTH_WAYS = ("boundary", "compat", "iopl", "m2p")
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/main.c"))

Guest = Callable[[str], Path]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OTHERS])
@pytest.mark.parametrize("vcpus", [1, 2])
def test_guest(boot: Boot, guest: Guest, name: str, vcpus: int) -> None:
    domain = boot(guest(name), "--vcpus", vcpus, "--console", "stdio", "--timeout", LIMIT)
    domain.ends(0)
    assert domain.output.endswith("SUCCESS\n")
    assert domain.stderr == ""


@pytest.mark.needs_breakpoints
@pytest.mark.parametrize("shim", ["dispatch", "exits"])
def test_breakpoints(boot: Boot, guest: Guest, shim: str) -> None:
    domain = boot(guest("breakpoints"), "--shim", shim, "--timeout", LIMIT)
    domain.ends(0)
    assert domain.output == "SUCCESS\n"
    assert domain.stderr == ""


@pytest.mark.parametrize("name", BOTH_WAYS)
@pytest.mark.parametrize("vcpus", [1, 2])
def test_guest_by_exits(boot: Boot, guest: Guest, name: str, vcpus: int) -> None:
    domain = boot(guest(name), "--vcpus", vcpus, "--shim", "exits", "--timeout", LIMIT)
    domain.ends(0)
    assert domain.output.endswith("SUCCESS\n")
    assert domain.stderr == ""


@pytest.mark.parametrize("vcpus", [2, 3, 4, 8])
def test_smp(boot: Boot, guest: Guest, vcpus: int) -> None:
    domain = boot(guest("smp"), "--vcpus", vcpus, "--timeout", LIMIT)
    domain.ends(0)
    assert domain.output == f"{vcpus} vCPUs\nSUCCESS\n"


@pytest.mark.parametrize("shim", ["dispatch", "exits"])
def test_lists(boot: Boot, guest: Guest, shim: str) -> None:
    domain = boot(guest("lists"), "--shim", shim, "--timeout", LIMIT)
    domain.ends(0)
    assert domain.output == "SUCCESS\n"


@pytest.mark.parametrize("shim", ["dispatch", "exits"])
def test_initialise(boot: Boot, guest: Guest, shim: str) -> None:
    domain = boot(guest("initialise"), "--shim", shim, "--vcpus", 2, "--timeout", LIMIT)
    domain.ends(0)
    assert domain.output == "SUCCESS\n"


@pytest.mark.parametrize("shim", ["dispatch", "exits"])
@pytest.mark.parametrize("runners", [2, 4])
def test_races(boot: Boot, guest: Guest, runners: int, shim: str) -> None:
    options = "--shim", shim, "--vcpus", runners + 1, "--timeout", LIMIT
    domain = boot(guest("races"), *options)
    domain.ends(0)
    assert domain.output == "no frame is a table\nSUCCESS\n"


def test_smp_says_that_it_needs_more(boot: Boot, guest: Guest) -> None:
    domain = boot(guest("smp"), "--timeout", LIMIT)
    domain.ends(3)
    assert "needs --vcpus 2" in domain.output, domain.stderr


@pytest.mark.parametrize("packed", [False, True], ids=["elf", "gzip"])
def test_a_crash_is_reported_with_symbols(
    boot: Boot, guest: Guest, environment: dict[str, str], tmp_path: Path, packed: bool
) -> None:
    """A later boot finds them too, in the file or in its image in the cache."""
    environment["XDG_CACHE_HOME"] = str(tmp_path)
    image = guest("smp").read_bytes()
    path = tmp_path / "smp"
    path.write_bytes(gzip.compress(image) if packed else image)
    # The cache does not keep a file that has just been written.
    time.sleep(_SETTLED_NS / 1e9)
    for _ in range(2):
        domain = boot(path, "--timeout", LIMIT)
        domain.ends(3)
        where = r"in kernel mode at e033:ffffffff80\w{6} \w+\+0x\w+/0x\w+\n"
        assert re.search(where, domain.stderr), domain.stderr
        kept = {file.suffix for file in (tmp_path / "kvmxen").iterdir()}
        assert kept == ({".facts", ".vmlinux"} if packed else {".facts"})


@pytest.mark.parametrize("memory", ["32M", "64M", "3G", "5G"])
def test_memory_of_all_sizes(boot: Boot, guest: Guest, memory: str) -> None:
    domain = boot(guest("mmu"), "--memory", memory, "--timeout", LIMIT)
    domain.ends(0)
    assert domain.output.endswith("SUCCESS\n")


def test_a_guest_from_before_the_notes(boot: Boot, guest: Guest, tmp_path: Path) -> None:
    """The contents of its notes, in a section __xen_guest."""
    objcopy = shutil.which("objcopy")
    if not objcopy:
        pytest.skip("needs objcopy (Debian's binutils)")
    text = "GUEST_OS=kvmxen,XEN_VER=xen-3.0,VIRT_BASE=0xffffffff80000000,ELF_PADDR_OFFSET=0x0"
    (tmp_path / "section").write_text(f"{text},LOADER=generic,PAE=yes[extended-cr3]\0")
    old = tmp_path / "old.elf"
    section = f"__xen_guest={tmp_path / 'section'}"
    command = [objcopy, "--remove-section=.note.xen", "--add-section", section]
    subprocess.run([*command, guest("null"), old], check=True)
    assert b"Xen\0" not in old.read_bytes()
    domain = boot(old, "--timeout", LIMIT)
    domain.ends(0)
    assert domain.output == "SUCCESS\n"


def test_a_command_line_of_bytes(boot: Boot) -> None:
    """The demo guest prints its command line, with a question mark for each byte that is not
    ASCII."""
    domain = boot("--cmdline", os.fsdecode(b"caf\xe9 \xc3\xa9"), "--timeout", LIMIT)
    domain.ends(0)
    assert re.search(r"command line +\| caf\? \?\? ", domain.output)


@pytest.mark.parametrize("shim", ["dispatch", "exits"])
def test_an_event_loop_is_broken(boot: Boot, guest: Guest, shim: str) -> None:
    domain = boot(
        guest("eventloop"), "--break-event-loops", "--shim", shim, "--timeout", LIMIT
    )  # fmt: skip
    domain.ends(0)
    assert domain.output.endswith("SUCCESS\n")
    (line,) = domain.stderr.splitlines()
    assert "sends an event to itself" in line
    assert "--break-event-loops lets it continue" in line


@pytest.mark.parametrize("shim", ["dispatch", "exits"])
def test_an_event_loop_is_told_of(boot: Boot, guest: Guest, shim: str) -> None:
    """It stays one, as on Xen: the second signal destroys the guest."""
    domain = boot(guest("eventloop"), "--shim", shim, "--timeout", LIMIT)
    domain.expect_stderr("no progress, nor would it on Xen; use --break-event-loops")
    domain.process.terminate()
    domain.expect_stderr("repeat to destroy it")
    domain.process.terminate()
    domain.ends(130)
    assert domain.output == "looping\n"
    assert domain.stderr.count("sends an event to itself") == 1


@pytest.mark.parametrize("shim", ["dispatch", "exits"])
def test_many_events_of_others_are_no_event_loop(boot: Boot, guest: Guest, shim: str) -> None:
    domain = boot(guest("eventloop"), "--cmdline", "flood=64", "--shim", shim, "--timeout", LIMIT)
    domain.ends(0)
    assert (domain.output, domain.stderr) == ("SUCCESS\n", "")


def test_bench(boot: Boot, guest: Guest) -> None:
    domain = boot(guest("bench"), "--cmdline", "rounds=10", "--timeout", LIMIT)
    domain.ends(0)
    assert "BENCH null_hypercall " in domain.output
    assert domain.output.endswith("SUCCESS\n")


@pytest.mark.parametrize("tty", [True, False])
def test_console(boot: Boot, guest: Guest, tty: bool) -> None:
    domain = boot(guest("console"), "--timeout", LIMIT, tty=tty)
    domain.expect("console ready\n")
    # More than a ring of input in all, one line at a time.
    for number in range(200):
        line = f"{number} " + "x" * 100
        domain.send(f"{line}\n")
        domain.expect(f"echo: {line}\n")
    domain.send("quit\n")
    domain.ends(0)
    assert domain.output.endswith("SUCCESS\n")


def test_the_escape_key_is_data_in_a_pipe(boot: Boot, guest: Guest) -> None:
    domain = boot(guest("console"), "--timeout", LIMIT)
    domain.expect("console ready\n")
    domain.send("AB\x1dCD\x1d\n")
    domain.expect("echo: AB\x1dCD\x1d\n")
    domain.send("quit\n")
    domain.ends(0)
    assert domain.stderr == ""


def test_console_takes_more_than_its_ring_at_once(boot: Boot, guest: Guest) -> None:
    domain = boot(guest("console"), "--timeout", LIMIT)
    domain.expect("console ready\n")
    lines = [f"line {number}" for number in range(1000)]
    domain.send("".join(f"{line}\n" for line in lines))
    for line in lines:
        domain.expect(f"echo: {line}\n")
    domain.send("quit\n")
    domain.ends(0)
