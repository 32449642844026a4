"""The lab's machine: QEMU's software emulation of a PC whose CPU has AMD's SVM."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from kvmxen.domain.initramfs import Entry, build_cpio, folder, program
from kvmxen.errors import KvmxenError
from tests import packages
from tests.lab.modules import modules

_QEMU = "qemu-system-x86_64"
_INIT = Path(__file__).with_name("init.sh")
_FILE = 0o100644
_TAIL = 3000
# Seconds between two looks at the log, and those in which a panicked machine should end.
_LOOK, _PANICKING = 1, 20
_STATUS = re.compile(r"^lab: exit status (\d+)", re.M)
_PANIC = "Kernel panic"
# What Linux writes from an exception on that it does not survive.
_LAST_WORDS = re.compile(rf"^.*(Oops|BUG:|int3: |{_PANIC})", re.M)
_CONSOLE = Entry("dev/console", 0o020600, device=(5, 1))
# The host's files, a writable layer above them, KVM, and tap devices on a bridge.
WANTED = ("virtio_pci", "9pnet_virtio", "9p", "overlay", "kvm_amd", "tun", "bridge")
_CPUS = 2
# Room for the largest guest of the tests; the host provides only what is used.
_MEMORY = "8G"
# QEMU 7.2 emulates iretq in ring 3 wrongly if the CPU has SMAP.
_CPU = "max,+svm,+npt,-smap"
# Emulation is too slow for the kernel's check that the CPUs' counters agree, although they do. The
# kernel would then choose a clock that costs an exit, and KVM would not let its guests read the
# counter.
_CMDLINE = "console=ttyS1 quiet panic=-1 oops=panic mitigations=off tsc=reliable"


@dataclass(frozen=True)
class End:
    """How the lab's machine ended: its log, and the command's exit status unless it died first."""

    log: str
    status: int | None

    @property
    def last_words(self) -> str:
        """The log from the panic of the machine's kernel on, else its end."""
        words = _LAST_WORDS.search(self.log)
        return self.log[words.start() :][:_TAIL] if words else self.log[-_TAIL:]


def run(version: str, command: str, *, silence: float = math.inf) -> End:
    """Run `command`, a shell script, in the lab on Debian's kernel `version`.

    It sees this machine's files at their paths, as they were when first read; its writes are
    discarded. Its terminal is this process's standard streams. A machine whose kernel panicked, or
    whose log did not grow for `silence` seconds, is ended if it does not end by itself. Raises
    KvmxenError if the lab cannot run, Unavailable if a package is missing.
    """
    if not shutil.which(_QEMU):
        raise KvmxenError("the lab needs QEMU: apt-get install qemu-system-x86")
    with TemporaryDirectory(prefix="kvmxen-lab-") as temp:
        image, log = Path(temp, "initramfs"), Path(temp, "log")
        image.write_bytes(initramfs(version, command))
        with subprocess.Popen(_arguments(version, image, log)) as machine:
            try:
                _watch(machine, log, silence)
            finally:
                machine.kill()
        text = log.read_text(errors="replace") if log.exists() else ""
    status = _STATUS.search(text)
    return End(text, int(status[1]) if status else None)


def _watch(machine: subprocess.Popen[bytes], log: Path, silence: float) -> None:
    """Return when `machine` has ended or has to be ended."""
    size, grown = 0, time.monotonic()
    while machine.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            machine.wait(_LOOK)
        text = log.read_text(errors="replace") if log.exists() else ""
        now = time.monotonic()
        if len(text) > size:
            size, grown = len(text), now
        if now - grown > (_PANICKING if _PANIC in text else silence):
            return


def initramfs(version: str, command: str) -> bytes:
    """The lab's initial ramdisk: busybox, modules, and `command` for its init to run."""
    loaded = modules(version, WANTED)
    names = "".join(f"{module.name}\n" for module in loaded)
    return build_cpio(
        [
            *map(folder, ("bin", "dev", "lab", "layer", "lower", "proc", "root")),
            _CONSOLE,
            program("bin/busybox", packages.busybox().read_bytes()),
            program("init", _INIT.read_bytes()),
            Entry("lab/command", _FILE, command.encode()),
            Entry("lab/modules", _FILE, names.encode()),
            *(Entry(f"lab/{module.name}", _FILE, module.image) for module in loaded),
        ]
    )


def _arguments(version: str, image: Path, log: Path) -> list[str]:
    terminal = os.isatty(sys.stdin.fileno())
    options = {
        "accel": "tcg,thread=multi",
        "machine": "q35",
        "cpu": _CPU,
        "smp": str(_CPUS),
        "m": _MEMORY,
        "kernel": str(packages.debian_kernel(version)),
        "initrd": str(image),
        "append": _CMDLINE,
        "display": "none",
        "chardev": f"stdio,id=terminal,signal={'off' if terminal else 'on'}",
        "virtfs": "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
    }
    flags = [argument for name, value in options.items() for argument in (f"-{name}", value)]
    serial = ["-serial", "chardev:terminal", "-serial", f"file:{log}"]
    return [_QEMU, "-nodefaults", "-no-user-config", "-no-reboot", *flags, *serial]
