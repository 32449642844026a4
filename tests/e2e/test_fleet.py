"""Many Linux guests at once on one machine, each with a disk and a network."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmxen.backends.net.passt import GATEWAY
from tests.e2e.disks import assert_clean, dump, make_file_system, make_ramdisk
from tests.e2e.domain import Boot
from tests.e2e.network import passt, servers
from tests.e2e.network.servers import Servers
from tests.e2e.test_network import DHCP

# KVMXEN_TEST_FULL=1 for fifty.
GUESTS = 50 if os.environ.get("KVMXEN_TEST_FULL") else 8
TIMEOUT = 900
SCRIPT = """
ip link set eth0 up
udhcpc -i eth0 -f -n -q -t 60 -T 5 -s /bin/dhcp 2>/dev/null
nslookup -type=a {name} {gateway}:{port} | grep -q {address} && echo "[the host answers]"
mount -t ext4 /dev/xvda /mnt && cp /proc/cmdline /mnt/said && umount /mnt && echo "[written]"
read -r line
poweroff -f
"""


def processes_of(run: Path) -> list[str]:
    """The commands of all processes that have this folder of domains in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(run).encode() in (process / "environ").read_bytes():
                found.append((process / "comm").read_text().strip())
        except OSError:
            continue
    return found


@pytest.mark.timeout(2 * TIMEOUT)
def test_many_at_once(
    boot: Boot, debian_kernel: Callable[[str], Path], busybox: Path, tmp_path: Path
) -> None:
    if lack := passt.why_not():
        pytest.skip(f"needs {lack}")
    kernel = debian_kernel("6.1")
    dhcp = tmp_path / "dhcp"
    dhcp.write_text(DHCP)
    with Servers("127.0.0.1", None, 1) as served:
        script = SCRIPT.format(
            gateway=GATEWAY, port=served.ports["names"], name=servers.NAME, address=servers.ADDRESS
        )
        ramdisk = make_ramdisk(tmp_path / "initrd", "6.1", script, dhcp)
        disks = [make_file_system(tmp_path / f"{n}.img", 16) for n in range(GUESTS)]
        domains = [
            boot(
                kernel, "--ramdisk", ramdisk, "--name", f"guest-{n}", "--memory", 128,
                "--cmdline", f"console=hvc0 quiet number={n}", "--disk", disk, "--net", "user",
                "--timeout", TIMEOUT,
            )
            for n, disk in enumerate(disks)
        ]  # fmt: skip
        for domain in domains:
            domain.expect(r"\[the host answers\]", TIMEOUT)
            domain.expect(r"\[written\]", TIMEOUT)
        assert len(list((tmp_path / "run").glob("guest-*/control.sock"))) == GUESTS
        for domain in domains:
            domain.send("\n")
        for domain in domains:
            domain.ends(0, TIMEOUT)
    for n, disk in enumerate(disks):
        assert_clean(disk)
        said = dump(disk, "/said", tmp_path / f"of-{n}").read_text()
        assert f"number={n}" in said.split()
    assert processes_of(tmp_path / "run") == []
