"""Debian's kernels, unmodified: an interactive shell, all sizes of domain, and hard work."""

from __future__ import annotations

import re
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.domain import Boot, Ramdisk, Shell

KERNELS = ("6.1", "6.12")
MIB = 1 << 20
UPTIME = r"([0-9.]+) [0-9.]+\n"
# What a healthy kernel does not say.
TROUBLE = re.compile(r"WARNING:|BUG:|Oops|Call Trace|stack guard|hung task|soft lockup|rcu.*stall")
# The notice of a mitigation that needs microcode, which bare metal prints too.
NOTICE = re.compile(
    r"(Speculative Return Stack Overflow|RETBleed|MDS|TAA|MMIO|Spectre.*): WARNING:"
)

pytestmark = pytest.mark.parametrize("version", KERNELS)


@pytest.fixture
def kernel(version: str, debian_kernel: Callable[[str], Path]) -> Path:
    return debian_kernel(version)


def assert_healthy(log: str) -> None:
    """That `log`, a kernel's, is whole and tells of no trouble."""
    assert "Linux version" in log
    lines = log.splitlines()
    assert not [line for line in lines if TROUBLE.search(line) and not NOTICE.search(line)]


def uptime_rate(shell: Shell, seconds: float) -> float:
    """Guest seconds a host second, over at least `seconds` of the host's."""

    def sample() -> tuple[float, float]:
        shell.domain.send("cat /proc/uptime\n")
        return float(shell.domain.expect(UPTIME)[1]), time.monotonic()

    guest, host = sample()
    while True:
        guest_now, host_now = sample()
        if host_now - host >= seconds:
            return (guest_now - guest) / (host_now - host)


@pytest.mark.usefixtures("busybox_found")
def test_shell(boot: Boot, kernel: Path, version: str) -> None:
    domain = boot(kernel, "--shell", "--timeout", 120, tty=True)
    assert domain.terminal is not None
    before = termios.tcgetattr(domain.terminal)
    domain.expect("Hypervisor detected: Xen PV")
    shell = Shell(domain)
    assert not termios.tcgetattr(domain.terminal)[3] & (termios.ICANON | termios.ECHO)
    assert shell.run("uname -r").startswith(version)
    assert shell.run("echo $((6 * 7))") == "42\n"
    assert shell.run("cat /sys/hypervisor/type /sys/hypervisor/uuid").startswith("xen\n")
    assert shell.run("tty") == "/dev/hvc0\n"
    assert 0.8 < uptime_rate(shell, 3) < 1.2
    assert_healthy(shell.run("dmesg"))
    domain.send("poweroff -f\n")
    assert domain.wait() == 0
    assert termios.tcgetattr(domain.terminal) == before


def test_wall_clock(boot: Boot, kernel: Path, ramdisk: Ramdisk) -> None:
    domain = boot(kernel, "--ramdisk", ramdisk("date +NOW%s.; poweroff -f\n"), "--timeout", 120)
    assert abs(int(domain.expect(r"NOW(\d+)\.")[1]) - time.time()) < 5
    assert domain.wait() == 0


@pytest.mark.parametrize(("vcpus", "memory"), [(1, 128), (2, 1024), (4, 6144)])
def test_sizes(boot: Boot, kernel: Path, ramdisk: Ramdisk, vcpus: int, memory: int) -> None:
    # All vCPUs count at once, each held to its own, and one must not stop another.
    script = """
        echo "CPUS=$(nproc)."
        grep MemTotal /proc/meminfo
        for cpu in $(seq 0 $(($(nproc) - 1))); do
            taskset -c $cpu sh -c 'n=0
                while [ $n -lt 20000 ]; do n=$((n + 1)); done; echo busy=$n.' &
        done
        wait
        dmesg
        echo "[end]"
        poweroff -f
    """
    options = ("--vcpus", vcpus, "--memory", f"{memory}M", "--timeout", 120)
    domain = boot(kernel, "--ramdisk", ramdisk(script), "--cmdline", "console=hvc0 quiet", *options)
    assert int(domain.expect(r"CPUS=(\d+)\.")[1]) == vcpus
    total = int(domain.expect(r"MemTotal: +(\d+) kB")[1]) << 10
    # The rest is the kernel's own and what describes the memory.
    assert memory * MIB - max(100 * MIB, memory * MIB // 20) < total < memory * MIB
    for _ in range(vcpus):
        domain.expect(r"busy=20000\.")
    assert_healthy(domain.expect(r"(.*)\[end\]")[1])
    assert domain.wait() == 0


def test_workload(boot: Boot, kernel: Path, version: str, ramdisk: Ramdisk, workload: Path) -> None:
    script = 'workload && echo "[right]"; dmesg; echo "[end]"; poweroff -f\n'
    options = ("--vcpus", 1 if version == "6.1" else 2, "--timeout", 280)
    image = ramdisk(script, workload)
    domain = boot(kernel, "--ramdisk", image, "--cmdline", "console=hvc0 quiet", *options)
    for part in ("processes", "memory", "signals", "vectors"):
        assert domain.expect(r"(DONE|FAILED): ([^\n]*)\n", 240)[2] == part
    domain.expect(r"\[right\]")
    assert_healthy(domain.expect(r"(.*)\[end\]")[1])
    assert domain.wait() == 0


@pytest.mark.usefixtures("busybox_found")
def test_reboot(boot: Boot, kernel: Path) -> None:
    domain = boot(kernel, "--shell", "--timeout", 200, tty=True)
    Shell(domain).domain.send("reboot -f\n")
    domain.expect("Linux version")
    Shell(domain).domain.send("poweroff\n")
    assert domain.wait() == 0
    assert domain.output.count("Run /init as init process") == 2


def test_reboot_that_destroys(boot: Boot, kernel: Path, ramdisk: Ramdisk) -> None:
    image = ramdisk("reboot -f\n")
    domain = boot(kernel, "--ramdisk", image, "--on-reboot", "destroy", "--timeout", 120)
    assert domain.wait() == 0
    assert domain.output.count("Linux version") == 1


def test_crash(boot: Boot, kernel: Path, ramdisk: Ramdisk) -> None:
    image = ramdisk("echo last words >/dev/kmsg; echo c >/proc/sysrq-trigger\n")
    domain = boot(kernel, "--ramdisk", image, "--timeout", 120)
    assert domain.wait() == 3
    report = domain.stderr
    assert report.startswith("kvmxen: the guest crashed: ")
    assert re.search(r"vcpu 0 in kernel mode at [0-9a-f]{4}:ffffffff[0-9a-f]{8}", report)
    assert re.search(r"rax [0-9a-f]{16} .* rdx [0-9a-f]{16}", report)
    assert "the console's last lines:" in report
    assert "Kernel panic - not syncing: sysrq triggered crash" in domain.output
    assert "Traceback" not in report


def test_sigterm(boot: Boot, kernel: Path, ramdisk: Ramdisk) -> None:
    image = ramdisk('echo "[up]"; while :; do sleep 1000 & wait; done\n')
    domain = boot(kernel, "--ramdisk", image, "--timeout", 120)
    domain.expect(r"\[up\]")
    domain.process.terminate()
    assert domain.wait() == 0
    assert "asking the guest to shut down" in domain.stderr


@pytest.mark.usefixtures("busybox_found")
def test_escape_key(boot: Boot, kernel: Path) -> None:
    domain = boot(kernel, "--shell", "--timeout", 120, tty=True)
    assert domain.terminal is not None
    before = termios.tcgetattr(domain.terminal)
    Shell(domain)
    domain.send("\x1d")
    assert domain.wait() == 0
    assert "asking the guest to shut down" in domain.stderr
    assert termios.tcgetattr(domain.terminal) == before
