"""One domain's configuration."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from uuid import UUID

from kvmxen.config.cloud_init import CloudInit
from kvmxen.config.console import ConsoleSpec
from kvmxen.config.disk import DiskSpec, with_targets
from kvmxen.config.net import NetSpec
from kvmxen.config.sizes import MIB, host_memory
from kvmxen.errors import FieldError
from kvmxen.kvm.layout import MAX_VCPUS, PAGE_SIZE

MIN_MEMORY = 32 * MIB
# struct start_info has 1024 bytes for it, including a NUL (xen/include/public/xen.h).
MAX_CMDLINE = 1023
# The domain's name is also its folder's: no separators, neither "." nor "..".
_NAME = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9._+-]{0,63}", re.ASCII)
# Python's stand-in for a byte that is not UTF-8 (PEP 383).
_NO_CHARACTER = re.compile("[\udc80-\udcff]")

# What happens when the guest ends.
Action = Literal["destroy", "restart", "preserve"]
Shim = Literal["dispatch", "exits"]
# How a disk's own system boots: GRUB runs in the guest, or Xen's pygrub reads the disk on the host.
Bootloader = Literal["pvgrub", "pygrub"]


def is_name(text: str) -> bool:
    """Whether `text` is a valid domain name."""
    return _NAME.fullmatch(text) is not None


def is_cmdline(text: str) -> bool:
    """Whether `text` is a command line that fits; bytes that are not UTF-8 are allowed."""
    try:
        size = len(os.fsencode(text))
    except UnicodeEncodeError:
        return False
    return size <= MAX_CMDLINE and _NO_CHARACTER.sub("", text).isprintable()


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to boot, and how; the constructor raises FieldError for invalid values.

    Without a `kernel`, the system of the first of the `disks` boots by the `bootloader`; without
    disks, the embedded demo guest boots. `memory` is in bytes. The guest may grow to
    `max_memory` and `max_vcpus`, by default the amounts that it starts with. The constructor gives
    each of `disks` a target. A domain whose `uuid` is None gets a random one.

    When the guest powers off, reboots or crashes, it is destroyed, booted again, or preserved: its
    vCPUs have stopped, and the rest stays until it is destroyed.
    """

    kernel: Path | None = None
    bootloader: Bootloader = "pvgrub"
    ramdisk: Path | None = None
    shell: bool = False
    modules: Path | None = None
    cmdline: str = ""
    name: str
    memory: int = 512 * MIB
    vcpus: int = 1
    max_memory: int = 0
    max_vcpus: int = 0
    disks: tuple[DiskSpec, ...] = ()
    console: ConsoleSpec = field(default_factory=lambda: ConsoleSpec("stdio"))
    nets: tuple[NetSpec, ...] = ()
    uuid: UUID | None = None
    on_poweroff: Action = "destroy"
    on_reboot: Action = "restart"
    on_crash: Action = "destroy"
    shim: Shim = "dispatch"
    break_event_loops: bool = False
    cloud_init: CloudInit | None = None
    xenstore: Path | None = None
    debug: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_memory", self.max_memory or self.memory)
        object.__setattr__(self, "max_vcpus", self.max_vcpus or self.vcpus)
        self._check_images()
        self._check_size()
        object.__setattr__(self, "disks", tuple(with_targets(self.disks)))
        if not is_name(self.name):
            raise FieldError(
                f"{self.name!r} cannot name a domain: give 1 to 64 letters, digits or . _ + -, "
                "the first of them not . or -"
            )
        if not is_cmdline(self.cmdline):
            raise FieldError(
                f"`cmdline` must be at most {MAX_CMDLINE} bytes of printable text, on one line"
            )

    def _check_images(self) -> None:
        if self.modules is not None and not self.shell:
            raise FieldError("`modules` is for the ramdisk of `shell`: give that too")
        if self.shell and self.ramdisk is not None:
            raise FieldError("`shell` makes a ramdisk: give `shell` or `ramdisk`, not both")
        if self.kernel is None and (self.shell or self.ramdisk is not None):
            field = "`shell`" if self.shell else "`ramdisk`"
            raise FieldError(f"{field} needs a kernel: give `kernel` too")
        if self.bootloader == "pygrub" and (self.kernel or not self.disks):
            raise FieldError(
                "`bootloader` is for a disk's own system: give a disk, and leave the kernel out"
            )
        if self.cloud_init is not None and not self.kernel and not self.disks:
            raise FieldError("`cloud_init` needs a system: give `kernel` or a disk too")

    def _check_size(self) -> None:
        if not 1 <= self.vcpus <= MAX_VCPUS:
            raise FieldError(f"`vcpus` must be 1 to {MAX_VCPUS}, not {self.vcpus}")
        if self.memory < MIN_MEMORY:
            raise FieldError(
                f"`memory` {self.memory // MIB} MiB is too small: "
                f"give at least {MIN_MEMORY // MIB} MiB"
            )
        if not self.vcpus <= self.max_vcpus <= MAX_VCPUS:
            raise FieldError(
                f"`max_vcpus` must be {self.vcpus}, the number of `vcpus`, to {MAX_VCPUS}, "
                f"not {self.max_vcpus}"
            )
        if self.max_memory < self.memory:
            raise FieldError(
                f"`max_memory` {self.max_memory // MIB} MiB is less than `memory`: "
                f"give at least {self.memory // MIB} MiB"
            )
        host = host_memory()
        for name, size in (("`memory`", self.memory), ("`max_memory`", self.max_memory)):
            if size % PAGE_SIZE:
                raise FieldError(f"{name} must be a multiple of {PAGE_SIZE} bytes")
            if size > host:
                raise FieldError(
                    f"{name} {size // MIB} MiB is more than this host has: "
                    f"give at most {host // MIB} MiB"
                )
