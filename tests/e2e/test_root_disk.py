"""A disk with a system of its own: GRUB in the guest, or pygrub, boots what the grub.cfg says."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from kvmxen import Config, ConsoleSpec, DiskSpec, Domain, End, KvmxenError
from kvmxen.config.domain import Bootloader
from kvmxen.domain import images, pygrub
from kvmxen.domain.initramfs import shell_initramfs
from tests.conftest import need
from tests.e2e.disks import empty_image, make_file_system, run
from tests.e2e.domain import PATIENCE, SLOWNESS
from tests.xen_tools import make_pygrub

WAIT = PATIENCE * SLOWNESS
MENU = """\
set timeout=0
menuentry "the system of this disk" --class os {
    insmod gzio
    insmod xzio
    linux /boot/vmlinuz console=hvc0 the-disk-says=%s
    initrd /boot/initrd.img
}
"""


@pytest.fixture(autouse=True)
def folders(kvm: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVMXEN_RUNTIME_DIR", str(tmp_path / "run"))


@pytest.fixture
def root(
    tmp_path: Path,
    debian_kernel: Callable[[str], Path],
    busybox: Path,
    pv_grub: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A root file system's folder, with a kernel."""
    monkeypatch.setattr(images, "_PV_GRUB", pv_grub)
    root = tmp_path / "root"
    (root / "boot" / "grub").mkdir(parents=True)
    shutil.copy(debian_kernel("6.1"), root / "boot" / "vmlinuz")
    (root / "boot" / "initrd.img").write_bytes(shell_initramfs(busybox))
    (root / "boot" / "grub" / "grub.cfg").write_text(MENU % "first")
    return root


def partitioned(path: Path, root: Path) -> Path:
    """An image with an MBR and one partition, an ext4 file system with `root`."""
    size = 120 << 20
    empty_image(path, 128)
    run("mke2fs", "-q", "-t", "ext4", "-F", "-d", root, "-E", "offset=1048576", path, "120M")
    with path.open("r+b") as file:
        file.seek(446)
        file.write(struct.pack("<8B2I", 0x80, 0, 0, 0, 0x83, 0, 0, 0, 2048, size // 512))
        file.seek(510)
        file.write(b"\x55\xaa")
    return path


@pytest.fixture(params=get_args(Bootloader))
def bootloader(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Bootloader:
    chosen: Bootloader = request.param
    if chosen == "pygrub":
        program = need("Debian's pygrub", lambda: make_pygrub(tmp_path / "pygrub"))
        monkeypatch.setattr(pygrub, "_PLACES", (str(program),))
    return chosen


def config(disk: Path, bootloader: Bootloader = "pvgrub") -> Config:
    return Config(
        name="disk",
        bootloader=bootloader,
        disks=(DiskSpec(path=disk),),
        console=ConsoleSpec("program"),
    )


def says(domain: Domain) -> bytes:
    domain.console.read_until(b"root # ", WAIT)
    domain.console.write(b"cat /proc/cmdline\r")
    domain.console.read_until(b"the-disk-says=", WAIT)
    return domain.console.read_until(b"\r\n", WAIT).strip()


def test_with_a_partition(root: Path, tmp_path: Path, bootloader: Bootloader) -> None:
    disk = partitioned(tmp_path / "disk.img", root)
    with Domain(config(disk, bootloader)) as domain:
        domain.start()
        assert says(domain) == b"first"
        domain.console.write(b"exit\r")
        ending = domain.wait(WAIT)
    assert ending is not None
    assert ending.end is End.POWEROFF


def test_a_reboot_reads_the_disk_again(root: Path, tmp_path: Path, bootloader: Bootloader) -> None:
    """The whole disk is a file system here."""
    disk = make_file_system(tmp_path / "disk.img", 128, root)
    menu = tmp_path / "menu"
    menu.write_text(MENU % "second")
    with Domain(config(disk, bootloader)) as domain:
        domain.start()
        assert says(domain) == b"first"
        # The guest has not mounted it: change it behind its back.
        run("debugfs", "-w", "-R", "rm /boot/grub/grub.cfg", disk)
        run("debugfs", "-w", "-R", f"write {menu} /boot/grub/grub.cfg", disk)
        domain.console.write(b"reboot -f\r")
        assert says(domain) == b"second"


def test_without_grub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_PV_GRUB", tmp_path / "absent")
    disk = empty_image(tmp_path / "disk.img", 1)
    with pytest.raises(KvmxenError, match=r"absent, which is not there: install grub-xen-host"):
        Domain(config(disk))
