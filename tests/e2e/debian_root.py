"""A disk with Debian on it, as debootstrap installs it, and a shell in it over ssh."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.disks import empty_image, run, tool
from tests.packages import Unavailable, host_sources

MIB = 3072
_START = 1 << 20
_PACKAGES = (
    "btrfs-progs", "dbus", "e2fsprogs", "fdisk", "grub2-common", "ifupdown", "initramfs-tools",
    "iproute2", "isc-dhcp-client", "linux-image-amd64", "lvm2", "openssh-server", "systemd-sysv",
    "udev", "zstd",
)  # fmt: skip
# Written by us for the first boot alone: the guest has update-grub write its own.
_MENU = """\
set timeout=0
insmod gzio
insmod xzio
menuentry "Debian" {
    linux %s root=/dev/xvda1 ro console=hvc0
    initrd %s
}
"""
_FILES = {
    "etc/fstab": "/dev/xvda1 / ext4 defaults 0 1\n",
    "etc/hostname": "guest\n",
    # The card is eth0 in Debian 12's initramfs, and enX0 to udev.
    "etc/network/interfaces": (
        "auto lo\niface lo inet loopback\n"
        "allow-hotplug eth0 enX0\niface eth0 inet dhcp\niface enX0 inet dhcp\n"
    ),
    # Making one with all modules takes minutes on a slow /dev/kvm.
    "etc/initramfs-tools/conf.d/driver-policy": "MODULES=dep\n",
    "etc/default/grub": (
        "GRUB_TIMEOUT=0\nGRUB_TERMINAL=console\nGRUB_DISABLE_OS_PROBER=true\n"
        "GRUB_CMDLINE_LINUX=console=hvc0\n"
    ),
}


def make_key(folder: Path) -> Path:
    """An ssh key in `folder`; the public half has the suffix .pub."""
    key = folder / "key"
    run("ssh-keygen", "-q", "-N", "", "-t", "ed25519", "-f", key)
    return key


def make_root_disk(suite: str, out: Path, key: Path) -> Path:
    """An image with an MBR and one partition: an ext4 file system with Debian's release `suite`.

    root has no password, and the ssh key `key`. Raises Unavailable.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root, for debootstrap")
    root = out.with_suffix(".root")
    _debootstrap(suite, root)
    for name, text in _FILES.items():
        (root / name).write_text(text)
    ssh = root / "root" / ".ssh"
    ssh.mkdir(mode=0o700, exist_ok=True)
    (ssh / "authorized_keys").write_bytes(key.with_suffix(".pub").read_bytes())
    shadow = root / "etc" / "shadow"
    shadow.write_text(re.sub(r"(?m)^root:[^:]*:", "root::", shadow.read_text()))
    (boot,) = (root / "boot").glob("vmlinuz-*")
    (root / "boot" / "grub").mkdir(exist_ok=True)
    (root / "boot" / "grub" / "grub.cfg").write_text(
        _MENU % (f"/boot/{boot.name}", f"/boot/{boot.name.replace('vmlinuz', 'initrd.img')}")
    )
    empty_image(out, MIB)
    size = (MIB << 20) - _START
    run(
        "mke2fs",
        "-q",
        "-t",
        "ext4",
        "-F",
        "-d",
        root,
        "-E",
        f"offset={_START}",
        out,
        f"{size >> 10}k",
    )
    shutil.rmtree(root)
    with out.open("r+b") as file:
        file.seek(446)
        file.write(struct.pack("<8B2I", 0x80, 0, 0, 0, 0x83, 0, 0, 0, _START >> 9, size >> 9))
        file.seek(510)
        file.write(b"\x55\xaa")
    return out


def _debootstrap(suite: str, root: Path) -> None:
    uri = next(source.uri for source in host_sources() if source.pocket == "")
    command = [tool("debootstrap"), "--variant=minbase", f"--include={','.join(_PACKAGES)}"]
    result = subprocess.run(
        [*command, suite, root, uri],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **_proxies()},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    if result.returncode:
        why = result.stdout.strip().splitlines()[-1:] or ["no reason given"]
        raise Unavailable(f"debootstrap {suite}: {why[0]}")


def _proxies() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}


class Shell:
    """Commands in the guest, by ssh through a forwarded port of the host."""

    def __init__(self, port: int, key: Path) -> None:
        self._command = [
            tool("ssh"), "-q", "-p", str(port), "-i", str(key), "-o", "BatchMode=yes",
            "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
            "-o", "ConnectTimeout=10", "root@127.0.0.1",
        ]  # fmt: skip

    def run(self, script: str, given: bytes = b"", timeout: float = 300) -> str:
        """The output of `script`, run by a shell, with `given` as its standard input."""
        result = subprocess.run(
            [*self._command, f"set -e\n{script}"], input=given, capture_output=True, timeout=timeout
        )
        output = (result.stdout + result.stderr).decode(errors="replace")
        assert result.returncode == 0, f"{script}: status {result.returncode}: {output}"
        return result.stdout.decode().strip()

    def wait(self, script: str, timeout: float) -> str:
        """The output of `script` as soon as it succeeds; the guest may be starting."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                return self.run(script, timeout=60)
            except (AssertionError, subprocess.TimeoutExpired):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
