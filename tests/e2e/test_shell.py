"""README's tour with Debian's kernels: a shell with disks and a network."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmxen.backends.net.passt import ADDRESS, GATEWAY
from tests import packages
from tests.e2e.domain import LIMIT, Boot, Shell
from tests.e2e.network import passt


@pytest.fixture
def modules() -> Callable[[str], Path]:
    """modules(version): the unpacked package of Debian's kernel with its drivers for Xen."""

    def unpacked(version: str) -> Path:
        try:
            return packages.modules(version, ("xen_netfront", "xen_blkfront"))
        except packages.Unavailable as error:
            pytest.skip(f"needs the modules of Debian's {version}: {error}")

    return unpacked


@pytest.mark.parametrize("version", ["6.1", "6.12"])
@pytest.mark.usefixtures("busybox_found")
def test_disks_and_networks(
    boot: Boot,
    debian_kernel: Callable[[str], Path],
    modules: Callable[[str], Path],
    tmp_path: Path,
    version: str,
) -> None:
    if lack := passt.why_not():
        pytest.skip(lack)
    image = tmp_path / "disk.img"
    image.write_bytes(b"a disk of the host's".ljust(1 << 20, b"\0"))
    options = ("--shell", "--modules", modules(version), "--net", "user", "--disk", image)
    domain = boot(debian_kernel(version), *options, "--timeout", LIMIT, tty=True)
    domain.expect(rf"eth0 has the address {ADDRESS}\.\n")
    shell = Shell(domain)
    assert shell.run("head -c 20 /dev/xvda; echo") == "a disk of the host's\n"
    assert f"default via {GATEWAY} dev eth0" in shell.run("ip route")
    assert "nameserver " in shell.run("cat /etc/resolv.conf")
    shell.run("echo from the guest | dd of=/dev/xvda conv=fsync 2>/dev/null")
    domain.send("exit\n")
    domain.ends(0)
    assert image.read_bytes().startswith(b"from the guest\n")
    assert os.fspath(tmp_path) not in domain.stderr
