"""Boots a guest between guards: python -m tests.guests.guarded ELF COMMAND_LINE VCPUS

This process reserves a GiB on each side of the guest's memory that nobody may touch. So an access
of the host outside the guest's memory, even a read, kills the process. Exits with the boot's
status, and prints at the end how much the process grew and what the guest left in it.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import sys
import threading
from pathlib import Path

from kvmxen.cli.foreground import boot
from kvmxen.config import Config, ConsoleSpec
from kvmxen.kvm.memory import GuestMemory
from kvmxen.pv import machine

GUARD = 1 << 30
_PROT_NONE = 0
_TRIES = 16

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def guarded(size: int) -> GuestMemory:
    """Guest memory of `size` bytes (whole pages) with the guards around it."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    # Mappings that fell into other gaps, held so that the next does not.
    misplaced = []
    for _ in range(_TRIES):
        low = _libc.mmap(None, size + 2 * GUARD, _PROT_NONE, flags, -1, 0)
        assert low not in (None, ctypes.c_void_p(-1).value), "no address space"
        assert _libc.munmap(low + GUARD, size) == 0
        memory = GuestMemory(size)
        if memory.host_address == low + GUARD:
            return memory
        misplaced.append(memory)
        _libc.munmap(low, size + 2 * GUARD)
    raise AssertionError("the guest's memory cannot be placed between the guards")


def anonymous() -> int:
    """The KiB of this process's own memory, without the guest's (RssAnon, proc(5))."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0])


class Peak(threading.Thread):
    """The highest own memory of the process from its start until `stop`."""

    def __init__(self) -> None:
        super().__init__(name="peak", daemon=True)
        self.first = self.most = anonymous()
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.1):
            self.most = max(self.most, anonymous())

    def stop(self) -> int:
        """The growth in KiB."""
        self._over.set()
        self.join()
        return self.most - self.first


def main(kernel: Path, cmdline: str, vcpus: int) -> int:
    vars(machine)["GuestMemory"] = guarded
    config = Config(
        name="guarded",
        kernel=kernel,
        cmdline=cmdline,
        vcpus=vcpus,
        console=ConsoleSpec("stdio"),
    )
    peak = Peak()
    peak.start()
    status = boot(config, timeout=600)
    print(f"grown: {peak.stop()} KiB")
    gc.collect()
    threads = [thread.name for thread in threading.enumerate() if thread.name != "MainThread"]
    links = [str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.exists()]
    left = threads + [link for link in links if "kvm" in link or "eventfd" in link]
    print(f"left: {left}")
    return status


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
