"""A guest that grows to its --maxmem and --maxvcpus at the host's request."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.domain import LIMIT, Boot, Ramdisk
from tests.e2e.test_linux import assert_healthy

MEMORY, MOST = 256 << 10, 512 << 10
GROWS = f"""
total() {{ awk '/MemTotal/ {{ print $2 }}' /proc/meminfo; }}
grep MemTotal /proc/meminfo
echo "CPUS=$(nproc). POSSIBLE=$(cat /sys/devices/system/cpu/possible)."
until [ $(total) -gt {MOST - 80 * 1024} ]; do sleep 0.1; done
echo "[larger]"
cpu=/sys/devices/system/cpu/cpu1/online
until [ -e $cpu ]; do sleep 0.1; done
# As udev does it.
echo 1 > $cpu
until [ $(nproc) = 2 ]; do sleep 0.1; done
echo "[wider]"
# What it got is there.
mkdir /filled && mount -t tmpfs -o size=400m filled /filled
dd if=/dev/zero of=/filled/all bs=1M count=300 && echo "[filled]"
umount /filled
until [ $(total) -lt {MEMORY} ]; do sleep 0.1; done
echo "[smaller]"
dmesg
echo "[end]"
poweroff -f
"""


@pytest.mark.parametrize("version", ["6.1", "6.12"])
def test_memory_and_vcpus(
    boot: Boot,
    environment: dict[str, str],
    debian_kernel: Callable[[str], Path],
    ramdisk: Ramdisk,
    version: str,
) -> None:
    def write(node: str, value: object) -> None:
        command = (sys.executable, "-m", "kvmxen", "xenstore", "write", "grows", node, str(value))
        subprocess.run(command, env=environment, check=True)

    domain = boot(
        debian_kernel(version),
        *("--ramdisk", ramdisk(GROWS), "--cmdline", "console=hvc0 quiet"),
        *("--name", "grows", "--memory", f"{MEMORY}K", "--maxmem", f"{MOST}K"),
        *("--vcpus", 1, "--maxvcpus", 2, "--timeout", LIMIT),
    )
    assert int(domain.expect(r"MemTotal: +(\d+) kB")[1]) < MEMORY
    assert domain.expect(r"CPUS=(\d+)\. POSSIBLE=(\S+)\.").groups() == ("1", "0-1")
    write("memory/target", MOST)
    domain.expect(r"\[larger\]")
    write("cpu/1/availability", "online")
    domain.expect(r"\[wider\]")
    domain.expect(r"\[filled\]")
    write("memory/target", MEMORY)
    domain.expect(r"\[smaller\]")
    assert_healthy(domain.expect(r"(.*)\[end\]")[1])
    domain.ends(0)
