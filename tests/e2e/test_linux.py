"""Debian's kernels, unmodified: an interactive shell, all sizes of domain, and hard work."""

from __future__ import annotations

import re
import signal
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.domain import LIMIT, Boot, Ramdisk, Shell

KERNELS = ("6.1", "6.12")
MIB = 1 << 20
UPTIME = r"([0-9.]+) [0-9.]+\n"
# Messages that a healthy kernel does not print.
TROUBLE = re.compile(
    r"WARNING:|BUG:|Oops|Call Trace|stack guard|hung task|soft lockup|rcu.*stall|"
    r"unchecked MSR access|Disabled fast string operations"
)
# The notice of a mitigation that needs microcode, which bare metal prints too.
NOTICE = re.compile(
    r"(Speculative Return Stack Overflow|RETBleed|MDS|TAA|MMIO|Spectre.*): WARNING:"
)

pytestmark = pytest.mark.parametrize("version", KERNELS)


@pytest.fixture
def kernel(version: str, debian_kernel: Callable[[str], Path]) -> Path:
    return debian_kernel(version)


def assert_healthy(log: str) -> None:
    """Check that `log`, a kernel's, is complete and reports no trouble."""
    assert "Linux version" in log
    lines = log.splitlines()
    assert not [line for line in lines if TROUBLE.search(line) and not NOTICE.search(line)]


def uptime_rates(shell: Shell, seconds: float) -> tuple[float, float]:
    """Guest seconds per host second, over at least `seconds` of the host's: the minimum and
    maximum possible, as the guest read its clock at some time between question and answer."""

    def sample() -> tuple[float, float, float]:
        asked = time.monotonic()
        shell.domain.send("cat /proc/uptime\n")
        return asked, float(shell.domain.expect(UPTIME)[1]), time.monotonic()

    before, guest, after = sample()
    while True:
        before_now, guest_now, after_now = sample()
        if before_now - after >= seconds:
            passed = guest_now - guest
            return passed / (after_now - before), passed / (before_now - after)


@pytest.mark.usefixtures("busybox_found")
def test_shell(boot: Boot, kernel: Path, version: str) -> None:
    domain = boot(kernel, "--shell", "--timeout", LIMIT, tty=True, size=(50, 132))
    assert domain.terminal is not None
    before = termios.tcgetattr(domain.terminal)
    domain.expect("Hypervisor detected: Xen PV")
    shell = Shell(domain)
    assert not termios.tcgetattr(domain.terminal)[3] & (termios.ICANON | termios.ECHO)
    assert shell.run("uname -r").startswith(version)
    assert shell.run("echo $((6 * 7))") == "42\n"
    assert shell.run("cat /sys/hypervisor/type /sys/hypervisor/uuid").startswith("xen\n")
    assert shell.run("tty") == "/dev/hvc0\n"
    assert shell.run("stty size") == "50 132\n"
    least, most = uptime_rates(shell, 3)
    assert least < 1.2
    assert most > 0.8
    assert_healthy(shell.run("dmesg"))
    domain.send("poweroff -f\n")
    domain.ends(0)
    assert termios.tcgetattr(domain.terminal) == before


def test_wall_clock(boot: Boot, kernel: Path, ramdisk: Ramdisk) -> None:
    image = ramdisk("date +NOW%s.; poweroff -f\n")
    before = time.time()
    domain = boot(kernel, "--ramdisk", image, "--timeout", LIMIT)
    assert before - 2 < int(domain.expect(r"NOW(\d+)\.")[1]) < time.time() + 2
    domain.ends(0)


@pytest.mark.parametrize(("vcpus", "memory"), [(1, 128), (2, 1024), (4, 6144)])
def test_sizes(boot: Boot, kernel: Path, ramdisk: Ramdisk, vcpus: int, memory: int) -> None:
    # All vCPUs count at once, each process pinned to its own; none must stop another.
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
    options = ("--vcpus", vcpus, "--memory", f"{memory}M", "--timeout", LIMIT)
    domain = boot(kernel, "--ramdisk", ramdisk(script), "--cmdline", "console=hvc0 quiet", *options)
    assert int(domain.expect(r"CPUS=(\d+)\.")[1]) == vcpus
    total = int(domain.expect(r"MemTotal: +(\d+) kB")[1]) << 10
    # The rest is the kernel itself and its description of the memory.
    assert memory * MIB - max(100 * MIB, memory * MIB // 20) < total < memory * MIB
    for _ in range(vcpus):
        domain.expect(r"busy=20000\.")
    assert_healthy(domain.expect(r"(.*)\[end\]")[1])
    domain.ends(0)


def test_workload(boot: Boot, kernel: Path, version: str, ramdisk: Ramdisk, workload: Path) -> None:
    script = 'workload && echo "[right]"; dmesg; echo "[end]"; poweroff -f\n'
    options = ("--vcpus", 1 if version == "6.1" else 2, "--timeout", LIMIT)
    image = ramdisk(script, workload)
    domain = boot(kernel, "--ramdisk", image, "--cmdline", "console=hvc0 quiet", *options)
    for part in ("processes", "memory", "signals", "vectors", "ports"):
        assert domain.expect(r"(DONE|FAILED): ([^\n]*)\n", 240)[2] == part
    domain.expect(r"\[right\]")
    assert_healthy(domain.expect(r"(.*)\[end\]")[1])
    domain.ends(0)


@pytest.mark.usefixtures("busybox_found")
def test_reboot(boot: Boot, kernel: Path) -> None:
    domain = boot(kernel, "--shell", "--timeout", LIMIT, tty=True)
    Shell(domain).domain.send("reboot -f\n")
    domain.expect("Linux version")
    Shell(domain).domain.send("poweroff\n")
    domain.ends(0)
    assert domain.output.count("Run /init as init process") == 2


def test_reboot_that_destroys(boot: Boot, kernel: Path, ramdisk: Ramdisk) -> None:
    image = ramdisk("reboot -f\n")
    domain = boot(kernel, "--ramdisk", image, "--on-reboot", "destroy", "--timeout", LIMIT)
    domain.ends(5)
    assert domain.output.count("Linux version") == 1


# In seconds; the kernel complains of a CPU after twice the first of these.
STOPPED_S = 15
STOPPED = """\
echo 3 >/proc/sys/kernel/watchdog_thresh
echo 10 >/sys/module/rcupdate/parameters/rcu_cpu_stall_timeout
for cpu in 0 1; do taskset $((1 << cpu)) sh -c 'while :; do :; done' & done
sleep 5
echo "[busy]"
read line
sleep 5
echo "[log]"; dmesg; echo "[end]"
poweroff -f
"""


def test_a_process_that_was_stopped(boot: Boot, kernel: Path, ramdisk: Ramdisk) -> None:
    image = ramdisk(STOPPED)
    domain = boot(kernel, "--ramdisk", image, "--vcpus", 2, "--timeout", LIMIT)
    domain.expect(r"\[busy\]")
    domain.process.send_signal(signal.SIGSTOP)
    time.sleep(STOPPED_S)
    domain.process.send_signal(signal.SIGCONT)
    domain.send("\n")
    assert_healthy(domain.expect(r"\[log\](.*)\[end\]")[1])
    domain.ends(0)


def test_crash(boot: Boot, kernel: Path, ramdisk: Ramdisk) -> None:
    image = ramdisk("echo last words >/dev/kmsg; echo c >/proc/sysrq-trigger\n")
    domain = boot(kernel, "--ramdisk", image, "--timeout", LIMIT)
    domain.ends(3)
    report = domain.stderr
    assert report.startswith("kvmxen: the guest crashed: ")
    assert re.search(r"vcpu 0 in kernel mode at [0-9a-f]{4}:ffffffff[0-9a-f]{8}", report)
    assert re.search(r"rax [0-9a-f]{16} .* rdx [0-9a-f]{16}", report)
    assert "the console's last lines:" in report
    assert "Kernel panic - not syncing: sysrq triggered crash" in domain.output
    assert "Traceback" not in report


def test_sigterm(boot: Boot, kernel: Path, ramdisk: Ramdisk) -> None:
    image = ramdisk('echo "[up]"; while :; do sleep 1000 & wait; done\n')
    domain = boot(kernel, "--ramdisk", image, "--timeout", LIMIT)
    domain.expect(r"\[up\]")
    domain.process.terminate()
    domain.ends(0)
    assert "asking the guest to shut down" in domain.stderr


@pytest.mark.usefixtures("busybox_found")
def test_escape_key(boot: Boot, kernel: Path) -> None:
    domain = boot(kernel, "--shell", "--timeout", LIMIT, tty=True)
    assert domain.terminal is not None
    before = termios.tcgetattr(domain.terminal)
    Shell(domain)
    domain.send("\x1d")
    domain.ends(0)
    assert "asking the guest to shut down" in domain.stderr
    assert termios.tcgetattr(domain.terminal) == before
