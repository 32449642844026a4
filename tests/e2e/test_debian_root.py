"""Debian on a disk: boots by its own kernel, is reached by ssh, reboots into a newer kernel."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvmxen import Config, ConsoleSpec, DiskSpec, Domain, End, NetSpec
from kvmxen.config.domain import Bootloader
from kvmxen.domain import images, pygrub
from tests.conftest import need
from tests.e2e.debian_root import MIB, Shell, make_key, make_root_disk
from tests.e2e.disks import empty_image
from tests.e2e.domain import PATIENCE
from tests.e2e.network.servers import free_port
from tests.packages import Suite
from tests.xen_tools import make_pygrub

# Partitions by sfdisk; the shell lines that make `$root`, the root file system's device.
LAYOUTS = {
    "mbr-ext4": ("", ""),
    "gpt-lvm": (
        "label: gpt\nsize=512M, type=linux\ntype=lvm\n",
        "pvcreate -qq -y /dev/xvdb2; vgcreate -qq vg /dev/xvdb2\n"
        "lvcreate -qq -y -n root -l 100%FREE vg\n"
        "root=/dev/mapper/vg-root; mkfs.ext4 -qF $root",
    ),
    "gpt-btrfs": (
        "label: gpt\nsize=512M, type=linux\ntype=linux\n",
        "root=/dev/xvdb2; mkfs.btrfs -qf $root",
    ),
}
INSTALL = """
printf '{table}' | sfdisk -q --no-reread /dev/xvdb
udevadm settle
{make}
mount $root /mnt
if {separate}; then mkfs.ext4 -qF /dev/xvdb1; mkdir /mnt/boot; mount /dev/xvdb1 /mnt/boot; fi
cp -ax /. /mnt
cp -ax /boot/. /mnt/boot
echo "$root / auto defaults 0 1" >/mnt/etc/fstab
if {separate}; then
    echo "UUID=$(blkid -s UUID -o value /dev/xvdb1) /boot ext4 defaults 0 2" >>/mnt/etc/fstab
fi
for folder in dev proc sys run; do mount --bind /$folder /mnt/$folder; done
chroot /mnt update-initramfs -u
chroot /mnt update-grub
umount /mnt/dev /mnt/proc /mnt/sys /mnt/run
umount -R /mnt
sync
"""
# ssh ends before the guest does.
SOON = "(sleep 1; %s) >/dev/null 2>&1 &"
CASES = [(suite, layout) for suite in ("bookworm", "trixie") for layout in LAYOUTS]
# Each takes minutes: one a day.
TODAY = CASES[int(time.time() // 86400) % len(CASES)]
FULL = bool(os.environ.get("KVMXEN_TEST_FULL"))


@contextmanager
def running(
    tmp_path: Path, bootloader: Bootloader, key: Path, *disks: Path
) -> Iterator[tuple[Domain, Shell]]:
    """A guest that boots the first of `disks`, and has come up."""
    port = free_port()
    net = NetSpec.parse(f"user,forward=tcp:127.0.0.1:{port}:22")
    assert net
    config = Config(
        name="debian",
        memory=512 << 20,
        bootloader=bootloader,
        # dpkg flushes each file.
        disks=tuple(DiskSpec(path=disk, cache="unsafe") for disk in disks),
        nets=(net,),
        console=ConsoleSpec("program"),
    )
    shell = Shell(port, key)
    with Domain(config) as domain:
        domain.start()
        domain.console.read_until(b"guest login:", PATIENCE)
        yield domain, shell
        ending = domain.wait(PATIENCE)
    assert ending is not None
    assert ending.end is End.POWEROFF


def check_up(shell: Shell, timeout: float = PATIENCE) -> str:
    """Wait until systemd has started all; the kernel's release."""
    shell.wait("true", timeout)
    state = shell.run("systemctl is-system-running --wait || systemctl --failed --no-legend")
    assert state == "running"
    return shell.run("uname -r")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("suite", "layout"), CASES)
def test_installed(
    suite: str,
    layout: str,
    kvm: None,
    pv_grub: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not FULL and (suite, layout) != TODAY:
        pytest.skip(f"today's is {TODAY[0]} on {TODAY[1]}; KVMXEN_TEST_FULL=1 runs all")
    monkeypatch.setenv("KVMXEN_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setattr(images, "_PV_GRUB", pv_grub)
    bootloader: Bootloader = "pvgrub"
    if suite == "trixie":
        # GRUB knows no zstd.
        bootloader = "pygrub"
        program = need("Debian's pygrub", lambda: make_pygrub(tmp_path / "pygrub"))
        monkeypatch.setattr(pygrub, "_PLACES", (str(program),))
    key = make_key(tmp_path)
    disk = need(
        f"Debian's release {suite}", lambda: make_root_disk(suite, tmp_path / "base.img", key)
    )
    newer = need("Debian's newest kernel", lambda: Suite(suite).deb("linux-image-amd64"))
    table, make = LAYOUTS[layout]
    others = [empty_image(tmp_path / "disk.img", MIB)] if table else []
    with running(tmp_path, bootloader, key, disk, *others) as (domain, shell):
        first = check_up(shell)
        shell.run("update-grub")
        if table:
            # GRUB knows LVM and btrfs, pygrub does not.
            separate = "true" if bootloader == "pygrub" else "false"
            table = table.replace("\n", r"\n")
            shell.run(INSTALL.format(table=table, make=make, separate=separate))
        domain.console.write(b"root\r")
        domain.console.read_until(b"root@guest:~#", PATIENCE)
        domain.console.write(b"poweroff\r")
    with running(tmp_path, bootloader, key, *(others or [disk])) as (domain, shell):
        assert check_up(shell) == first
        source = shell.run("findmnt -no SOURCE /")
        assert source == {"gpt-lvm": "/dev/mapper/vg-root", "mbr-ext4": "/dev/xvda1"}.get(
            layout, "/dev/xvda2"
        )
        release = re.sub(r"^linux-(image|binary)-|_.*", "", newer.name)
        if release == first:
            pytest.skip(f"needs a kernel newer than {first} in Debian's release {suite}")
        shell.run("cat >/root/newer.deb", newer.read_bytes())
        shell.run("dpkg -i --force-depends /root/newer.deb", timeout=900)
        shell.run(SOON % "reboot")
        domain.console.read_until(b"guest login:", PATIENCE)
        assert check_up(shell) == release
        shell.run(SOON % "poweroff")
