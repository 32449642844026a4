"""A person's mistake gives one clear sentence and exit status 1 or 2, no traceback and no hang."""

from __future__ import annotations

import lzma
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from kvmxen.xen.abi.elfnote import NoteType
from tests.e2e.domain import ROOT
from tests.unit.loader.images import (
    INIT_P2M,
    NOTES,
    START,
    VIRT_BASE,
    Load,
    bzimage,
    elf,
    elf32,
    gzip,
    u64,
)

KVMXEN = [sys.executable, "-m", "kvmxen"]
NOBODY = 65534
# Far more than any of it needs; anything slower hangs.
TIMEOUT = 120


def run(*command: str | Path, environment: dict[str, str]) -> tuple[int, str]:
    """(status, stderr) of a command that writes nothing else."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


def assert_sentence(stderr: str) -> None:
    """Check that `stderr` is one line, for a person."""
    assert re.fullmatch(r"kvmxen: [^\n]{20,400}\n", stderr), stderr
    assert "Traceback" not in stderr
    assert "internal error" not in stderr


Refused = Callable[..., tuple[int, str]]


@pytest.fixture
def refused(environment: dict[str, str], tmp_path: Path) -> Iterator[Refused]:
    """refused(*arguments): kvmxen boot's status and sentence."""

    def boot(*arguments: str | Path) -> tuple[int, str]:
        status, stderr = run(*KVMXEN, "boot", *arguments, environment=environment)
        assert_sentence(stderr)
        return status, stderr

    yield boot
    left = list((tmp_path / "run").glob("[!.]*/*"))
    assert not left


def bomb() -> bytes:
    """Over a GiB of zeros after the beginning of an ELF file; it claims the size of a page."""
    zeros = bytes(64 << 20)
    stream = zstandard.ZstdCompressor().compressobj()
    parts = [stream.compress(elf()[:64])]
    parts += [stream.compress(zeros) for _ in range(17)]
    return b"".join([*parts, stream.flush(), struct.pack("<I", 4096)])


def announced_bomb() -> bytes:
    """The same with its true size."""
    return bomb()[:-4] + struct.pack("<I", 17 * 64 << 20)


def spoiled(payload: bytes) -> bytes:
    middle = len(payload) // 2
    return (
        payload[:middle]
        + bytes(b ^ 0xFF for b in payload[middle : middle + 64])
        + payload[middle + 64 :]
    )


def noise(size: int) -> bytes:
    """Incompressible data, so that damage to it shows."""
    return b"".join(struct.pack("<I", n * 2654435761 & 0xFFFFFFFF) for n in range(size // 4))


def with_notes(**changes: bytes) -> bytes:
    return elf({**NOTES, **{NoteType[name]: value for name, value in changes.items()}})


KERNELS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "is empty"),
    "text": (lambda: b"#!/bin/sh\nexit 0\n" * 99, "neither a bzImage nor an ELF file"),
    "truncated bzImage": (lambda: bzimage(gzip(elf()))[:-200], "truncated bzImage"),
    "header of a bzImage": (lambda: bzimage(gzip(elf()))[:600], "truncated bzImage"),
    "truncated ELF": (lambda: elf()[:5000], "corrupt ELF file"),
    "header of an ELF": (lambda: elf()[:40], "corrupt ELF file"),
    "no Xen notes": (lambda: elf({}), "no Xen notes"),
    "32-bit": (elf32, "32-bit"),
    "compressed text": (lambda: gzip(b"no kernel" * 99), "neither a bzImage nor an ELF kernel"),
    "two compressions": (lambda: gzip(gzip(elf())), "neither a bzImage nor an ELF kernel"),
    "corrupt gzip": (lambda: bzimage(spoiled(gzip(noise(1 << 16)))), "corrupt"),
    "corrupt xz": (lambda: bzimage(spoiled(lzma.compress(noise(1 << 16)))), "corrupt"),
    "bomb": (lambda: bzimage(bomb()), "corrupt"),
    "bomb that says so": (lambda: bzimage(announced_bomb()), "1088 MiB"),
    "entry outside": (lambda: with_notes(ENTRY=u64(VIRT_BASE)), "outside of what is loaded"),
    "virtual base": (lambda: with_notes(VIRT_BASE=u64(1 << 47)), "where no guest can be"),
    "hypercall page": (lambda: with_notes(HYPERCALL_PAGE=u64(8)), "hypercall page"),
    "p2m": (lambda: with_notes(INIT_P2M=u64(1 << 47)), "INIT_P2M"),
    "p2m at no page": (lambda: with_notes(INIT_P2M=u64(INIT_P2M + 8)), "INIT_P2M"),
    "short note": (lambda: with_notes(ENTRY=b"abc"), "ENTRY note of 3 bytes"),
    "overlap": (lambda: elf(loads=[Load(), Load(START + 0x1000)]), "overlap"),
    "wrap": (lambda: elf(loads=[Load(paddr=(1 << 64) - 4096)]), "wraps around"),
    "outside the file": (lambda: elf(loads=[Load(offset=1 << 40)]), "truncated ELF"),
    "outside memory": (lambda: elf(loads=[Load(), Load(1 << 50)]), "span"),
    "more than there is": (
        lambda: elf(loads=[Load(memsz=900 << 20)]),
        "give the guest more memory",
    ),
}


@pytest.mark.parametrize("name", KERNELS)
def test_kernel(refused: Refused, tmp_path: Path, name: str) -> None:
    make, message = KERNELS[name]
    path = tmp_path / "vmlinuz"
    path.write_bytes(make())
    status, sentence = refused(path)
    assert status == 1
    assert message in sentence


def test_no_file(refused: Refused, tmp_path: Path) -> None:
    for arguments in ((tmp_path / "none",), (tmp_path / "none" / "below",)):
        status, sentence = refused(*arguments)
        assert status == 1
        assert str(arguments[0]) in sentence


def test_directory(refused: Refused, tmp_path: Path) -> None:
    status, sentence = refused(tmp_path)
    assert status == 1
    assert "directory" in sentence


def test_special_file(refused: Refused, tmp_path: Path) -> None:
    # Neither of them must be waited for.
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero")):
        assert refused(path)[0] == 1


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    """A kernel that kvmxen would load."""
    path = tmp_path / "kernel"
    path.write_bytes(elf())
    return path


def test_ramdisk(kvm: None, refused: Refused, kernel: Path, tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(600 << 20)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for ramdisk, message in (
        (tmp_path / "none", "cannot be read"),
        (tmp_path, "directory"),
        (large, "give the guest more memory"),
        (fifo, "is not a regular file"),
        (Path("/dev/zero"), "is not a regular file"),
        (Path("/proc/self/mem"), "is empty"),
    ):
        status, sentence = refused(kernel, "--ramdisk", ramdisk)
        assert status == 1
        assert message in sentence


def test_disk(kvm: None, refused: Refused, kernel: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for disk, message in (
        (tmp_path / "none", "cannot be opened: No such file"),
        (tmp_path, "neither a file nor a block device"),
        (fifo, "neither a file nor a block device"),
        (f"{fifo},ro,format=qcow2", "neither a file nor a block device"),
        ("/dev/zero", "neither a file nor a block device"),
        ("/proc/self/mem", "has no size"),
        (f"{kernel},format=qcow2", "is not a qcow2 image"),
        (f"{kernel},format=vhd", "is not a vhd image"),
    ):
        status, sentence = refused(kernel, "--disk", str(disk))
        assert status == 1
        assert message in sentence


def test_console_file(refused: Refused, tmp_path: Path) -> None:
    status, sentence = refused("--console", f"file:{tmp_path}/none/log")
    assert status == 1
    assert "console" in sentence


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--memory 31M", "at least 32"),
        ("--memory 0", "at least 32"),
        ("--memory 900000G", "more than this host has"),
        ("--memory lots", "lots"),
        ("--memory -5", "-5"),
        ("--vcpus 0", "1 to 64"),
        ("--vcpus 1000", "1 to 64"),
        ("--vcpus two", "two"),
        ("--console window", "window"),
        ("--timeout 0", "--timeout"),
        ("--timeout nan", "--timeout"),
        ("--on-reboot laugh", "laugh"),
        ("--name ../x", "name a domain"),
        ("--stats=xml", "xml"),
        ("--shell", "needs a kernel"),
        ("--ramdisk /dev/null", "needs a kernel"),
        ("kernel --shell --ramdisk /dev/null", "not both"),
        ("--frobnicate", "--frobnicate"),
        ("kernel another", "another"),
    ],
)
def test_usage(refused: Refused, arguments: str, message: str) -> None:
    status, sentence = refused(*arguments.split())
    assert status == 2
    assert message in sentence


@pytest.mark.parametrize("limit", range(5, 20, 2))
def test_too_few_files(kvm: None, environment: dict[str, str], limit: int) -> None:
    shell = ("sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh")
    status, stderr = run(*shell, *KVMXEN, "boot", "--console", "none", environment=environment)
    # With so few the interpreter itself fails; the number that suffices is not ours to state.
    assert limit > 5 or status == 1
    if status != 0:
        assert status == 1
        assert_sentence(stderr)
        assert "open files" in stderr or "open more files" in stderr


def test_command_line_beyond_measure(refused: Refused) -> None:
    status, sentence = refused("--cmdline", "x" * 1024)
    assert status == 2
    assert "1023" in sentence


def test_two_domains_of_one_name(
    kvm: None, environment: dict[str, str], refused: Refused, pv_grub: Path
) -> None:
    command = [*KVMXEN, "boot", str(pv_grub), "--name", "twin", "--timeout", str(TIMEOUT)]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as first:
        assert first.stdout
        assert first.stdout.read(1)
        status, sentence = refused("--name", "twin")
        first.kill()
    assert status == 1
    assert "twin" in sentence
    # The first domain left its folder, which nobody owns now: the name is free again.
    assert run_ok("--name", "twin", "--console", "none", environment=environment) == 0


def run_ok(*arguments: str, environment: dict[str, str]) -> int:
    return run(*KVMXEN, "boot", *arguments, environment=environment)[0]


# Mounts that this process may not make are made by another in a private mount namespace.


def in_namespace(prepare: str, environment: dict[str, str], *before: str) -> tuple[int, str]:
    """Run kvmxen boot through the command `before`, with the mounts that the script `prepare`
    makes."""
    unshare = shutil.which("unshare")
    if not unshare:
        pytest.skip("needs unshare (Debian's util-linux)")
    mounts = [unshare, "--mount", *(() if os.geteuid() == 0 else ("--map-root-user",))]
    script = f'{prepare} || exit 99; exec "$@"'
    shell = [*mounts, "sh", "-c", script, "sh"]
    status, stderr = run(*shell, *before, *KVMXEN, "boot", environment=environment)
    if status == 99 or stderr.startswith("unshare:"):
        pytest.skip(f"needs a mount namespace: {stderr.strip()}")
    return status, stderr


def test_no_device(environment: dict[str, str]) -> None:
    status, sentence = in_namespace("mount -t tmpfs none /dev", environment)
    assert status == 1
    assert_sentence(sentence)
    assert "/dev/kvm" in sentence


def test_a_device_that_is_not_kvm(environment: dict[str, str], kvm: None) -> None:
    status, sentence = in_namespace("mount --bind /dev/null /dev/kvm", environment)
    assert status == 1
    assert_sentence(sentence)
    assert "not a KVM device" in sentence


def test_no_permission(environment: dict[str, str], kvm: None) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to become a user without access to /dev/kvm")
    setpriv = shutil.which("setpriv")
    if not setpriv:
        pytest.skip("needs setpriv (Debian's util-linux)")
    nobody = [setpriv, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, NOBODY, NOBODY)
        own = environment | dict.fromkeys(("KVMXEN_RUNTIME_DIR", "TMPDIR", "HOME"), folder)
        imports = [*nobody, sys.executable, "-c", "import kvmxen.domain.domain"]
        if subprocess.run(imports, cwd=ROOT, env=own, capture_output=True).returncode:
            pytest.skip("needs a checkout and a Python that every user can read")
        device = f"mknod -m 600 {folder}/kvm c 10 232 && mount --bind {folder}/kvm /dev/kvm"
        status, sentence = in_namespace(device, own, *nobody)
        left = [path.name for path in Path(folder).iterdir() if not path.name.startswith(".")]
        assert left == ["kvm"]
    assert status == 1
    assert_sentence(sentence)
    assert "/dev/kvm" in sentence
