"""The jobs: the commands that boot the same guest, and their names."""

from __future__ import annotations

from benchmarks.lab import devices
from benchmarks.lab.python import INTERPRETER

QEMU_BINARIES = ("usr/bin/qemu-system-x86_64", "usr/bin/qemu-system-x86_64-microvm")
_CMDLINE = "console={} quiet"
_QEMU, _MICROVM = (
    [
        "/qemu/usr/lib64/ld-linux-x86-64.so.2",
        *("--library-path", "/qemu/usr/lib/x86_64-linux-gnu", f"/qemu/{binary}"),
        *("-L", "/qemu/usr/share/qemu", "-L", "/qemu/usr/share/seabios"),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-cpu", "host", "-m", "512", "-smp", "1"),
    ]
    for binary in QEMU_BINARIES
)
_DIRECT = ["-accel", "kvm", "-initrd", "/guest/initrd", "-serial", "stdio"]
_DIRECT += ["-append", _CMDLINE.format("ttyS0")]
_HVC = _CMDLINE.format("hvc0")
# Rounds of each operation of tests/guests/bench.
ROUNDS = 5000


def commands() -> dict[str, list[str]]:
    """The command of each job, by name."""
    kvmxen = _kvmxen("/guest/initrd", _HVC)
    own = [*kvmxen[:3], "boot", "/guest/bench", "--cmdline", f"rounds={ROUNDS}"]
    quick = _kvmxen("/guest/initrd", f"{_HVC} quick")
    staged = [*quick[:2], "benchmarks.staged", "@now", *quick[3:], "--stats=json"]
    return {
        # Also fills the cache of kernels for the following jobs.
        "first": kvmxen,
        "kvmxen": kvmxen,
        "staged": staged,
        "own": own,
        "direct": [*_QEMU, *_DIRECT, "-kernel", "/guest/vmlinux"],
        "pv-shim": _pv_shim("/guest/initrd", _HVC),
        "microvm": [*_MICROVM, "-M", "microvm", *_DIRECT, "-kernel", "/guest/vmlinux"],
        "exits": [*kvmxen, "--shim", "exits"],
        "bzimage": [*_QEMU, *_DIRECT, "-kernel", "/guest/vmlinuz"],
        "kvmxen-devices": [*_kvmxen(devices.RAMDISK, devices.CMDLINE), *devices.KVMXEN],
        "pv-shim-devices": [*_pv_shim(devices.RAMDISK, devices.CMDLINE), *devices.QEMU],
    }


def _kvmxen(ramdisk: str, cmdline: str) -> list[str]:
    command = [str(INTERPRETER), "-m", "kvmxen", "boot", "/guest/vmlinuz", "--ramdisk", ramdisk]
    return [*command, "--memory", "512M", "--cmdline", cmdline]


def _pv_shim(ramdisk: str, cmdline: str) -> list[str]:
    return [
        *_QEMU,
        *("-accel", "kvm,xen-version=0x40011,kernel-irqchip=split"),
        *("-chardev", "stdio,id=console", "-device", "xen-console,chardev=console"),
        *("-kernel", "/guest/xen-shim", "-initrd", f"/guest/vmlinux {cmdline},{ramdisk}"),
        *("-append", "pv-shim console=xen,pv"),
    ]
