"""A reader of our own reads the archive back; busybox's cpio is a second opinion."""

from __future__ import annotations

import os
import stat
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmxen.domain.initramfs import (
    DHCP,
    INIT,
    Entry,
    build_cpio,
    find_busybox,
    folder,
    is_static,
    program,
    shell_initramfs,
)
from kvmxen.domain.modules import Module
from kvmxen.errors import KvmxenError

PT_LOAD, PT_INTERP = 1, 3


def elf(*types: int, machine: int = 62) -> bytes:
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64, 56, len(types), 0, 0, 0)
    return header + b"".join(struct.pack("<I", kind).ljust(56, b"\0") for kind in types)


def read_cpio(archive: bytes) -> dict[str, tuple[int, bytes, tuple[int, int]]]:
    """Path -> mode, content, device; without the trailer."""
    files: dict[str, tuple[int, bytes, tuple[int, int]]] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        field = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name = archive[at + 110 : at + 110 + field[11]]
        assert name.endswith(b"\0")
        at = (at + 110 + field[11] + 3) & ~3
        content = archive[at : at + field[6]]
        at = (at + field[6] + 3) & ~3
        if name == b"TRAILER!!!\0":
            assert at == len(archive)
            return files
        files[name[:-1].decode()] = (field[1], content, (field[9], field[10]))


def test_golden_bytes() -> None:
    entry = (
        b"070701" b"00000001" b"000081ED" b"00000000" b"00000000" b"00000001" b"00000000"
        b"00000003" b"00000000" b"00000000" b"00000000" b"00000000" b"00000005" b"00000000"
        b"init\0\0" b"#!x\0"
    )  # fmt: skip
    trailer = (
        b"070701" b"00000000" b"00000000" b"00000000" b"00000000" b"00000001" b"00000000"
        b"00000000" b"00000000" b"00000000" b"00000000" b"00000000" b"0000000B" b"00000000"
        b"TRAILER!!!\0\0\0\0"
    )  # fmt: skip
    assert build_cpio([program("init", b"#!x")]) == entry.ljust(120, b"\0") + trailer


@given(st.lists(st.tuples(st.binary(max_size=9), st.integers(0, 255)), max_size=5))
def test_reads_back(contents: list[tuple[bytes, int]]) -> None:
    entries = [
        Entry("d" * (n + 1), stat.S_IFCHR | 0o600, content, (minor, minor))
        for n, (content, minor) in enumerate(contents)
    ]
    files = read_cpio(build_cpio(entries))
    assert files == {e.path: (e.mode, e.content, e.device) for e in entries}


def test_shell_has_what_a_kernel_needs(tmp_path: Path) -> None:
    busybox = tmp_path / "busybox"
    busybox.write_bytes(elf(PT_LOAD))
    files = read_cpio(shell_initramfs(busybox))
    assert files["dev/console"] == (stat.S_IFCHR | 0o600, b"", (5, 1))
    assert files["bin/busybox"] == (stat.S_IFREG | 0o755, elf(PT_LOAD), (0, 0))
    assert files["init"] == (stat.S_IFREG | 0o755, INIT.encode(), (0, 0))
    paths = list(files)
    for n, path in enumerate(paths):
        parent = str(Path(path).parent)
        assert parent == "." or parent in paths[:n]


def test_the_size_of_the_terminal(tmp_path: Path) -> None:
    busybox = tmp_path / "busybox"
    busybox.write_bytes(elf(PT_LOAD))
    files = read_cpio(shell_initramfs(busybox, size=os.terminal_size((132, 50))))
    assert files["etc/winsize"] == (stat.S_IFREG | 0o644, b"rows 50 cols 132\n", (0, 0))
    assert "etc/winsize" not in read_cpio(shell_initramfs(busybox))


def test_modules_are_there_in_the_order_of_their_loading(tmp_path: Path) -> None:
    busybox = tmp_path / "busybox"
    busybox.write_bytes(elf(PT_LOAD))
    modules = [Module(f"module{n}", f"image {n}".encode()) for n in (3, 1, 2)]
    files = read_cpio(shell_initramfs(busybox, modules))
    found = {path: files[path][1] for path in sorted(files) if path.endswith(".ko")}
    assert found == {
        "lib/modules/000-module3.ko": b"image 3",
        "lib/modules/001-module1.ko": b"image 1",
        "lib/modules/002-module2.ko": b"image 2",
    }
    assert files["etc/udhcpc"] == (stat.S_IFREG | 0o755, DHCP.encode(), (0, 0))


def test_init_powers_off_after_the_shell() -> None:
    *_, shell, last = INIT.splitlines()
    assert shell.startswith("setsid -c sh ")
    assert last == "poweroff -f"


def test_init_needs_only_what_busybox_has(busybox: Path) -> None:
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    used = {"sh", "mount", "mkdir", "hostname", "ip", "uname", "stty", "setsid", "poweroff"}
    used |= {"insmod", "udhcpc", "ls", "echo"}
    assert used <= set(applets.stdout.split())
    for script in (INIT, DHCP):
        subprocess.run([busybox, "sh", "-n", "-c", script], check=True)


def test_real_cpio_reads_it(busybox: Path) -> None:
    archive = build_cpio([folder("a"), program("a/b", b"text"), folder("c")])
    listing = subprocess.run(
        [busybox, "cpio", "-t"], input=archive, capture_output=True, check=True
    )
    assert listing.stdout.split() == [b"a", b"a/b", b"c"]


def test_real_busybox_is_static(busybox: Path) -> None:
    assert is_static(busybox.read_bytes())


@pytest.mark.parametrize(
    "image",
    [
        b"",
        b"#!/bin/sh\n",
        b"\x7fELF\x02\x01",
        elf(PT_LOAD, PT_INTERP),
        elf(),
        elf(PT_LOAD, machine=183),
        elf(PT_LOAD)[:-1],
    ],
    ids=["empty", "script", "short", "dynamic", "no segments", "other machine", "truncated"],
)
def test_refuses_what_cannot_run_alone(image: bytes, tmp_path: Path) -> None:
    busybox = tmp_path / "busybox"
    busybox.write_bytes(image)
    with pytest.raises(KvmxenError, match=r"not a statically linked program.*busybox-static"):
        shell_initramfs(busybox)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(KvmxenError, match=r"cannot read .*busybox: No such file"):
        shell_initramfs(tmp_path / "busybox")


def test_finds_the_static_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dynamic, static = tmp_path / "a" / "busybox", tmp_path / "b" / "busybox"
    for path, image in ((dynamic, elf(PT_LOAD, PT_INTERP)), (static, elf(PT_LOAD))):
        path.parent.mkdir()
        path.write_bytes(image)
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(dynamic.parent))
    monkeypatch.setattr("kvmxen.domain.initramfs._PATHS", (str(static),))
    assert find_busybox() == static
    static.unlink()
    assert find_busybox() == dynamic
    dynamic.unlink()
    with pytest.raises(KvmxenError, match=r"is not installed.*busybox-static"):
        find_busybox()
