"""The files that a guest starts from: its kernel and its initial ramdisk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kvmxen import guests
from kvmxen.backends.terminal import terminal_size
from kvmxen.config import Config
from kvmxen.config.sizes import MIB
from kvmxen.domain.rundir import cache_directory
from kvmxen.errors import KvmxenError
from kvmxen.loader.elf import ElfKernel
from kvmxen.loader.files import RegularFile
from kvmxen.loader.kernel import load_kernel
from kvmxen.streams import say

if TYPE_CHECKING:
    from kvmxen.domain.modules import Module

# A kernel, its initial ramdisk, and its command line.
Images = tuple[ElfKernel, bytes | bytearray | None, str]

_DEMO = Path(guests.__file__).with_name("demo.elf")
# GRUB as a Xen guest: it boots what the grub.cfg of a disk says. Debian's package grub-xen-host.
_PV_GRUB = Path("/usr/lib/grub-xen/grub-x86_64-xen.bin")


def read_images(config: Config, folder: Path) -> Images:
    """What `config` says to boot; raises KvmxenError if it cannot be read.

    `folder` is the domain's own, for files on the way.
    """
    if config.bootloader == "pygrub":
        return _read_from_disk(config, folder)
    kernel = _read_kernel(config)
    # The option makes Linux use the Xen console.
    cmdline = config.cmdline or ("console=hvc0" if config.kernel else "")
    return kernel, _read_ramdisk(config, kernel), cmdline


def _read_from_disk(config: Config, folder: Path) -> Images:
    from kvmxen.domain.pygrub import boot_files

    with boot_files(config.disks[0], config.cmdline, folder) as found:
        config = replace(config, bootloader="pvgrub", kernel=found.kernel, ramdisk=found.ramdisk)
        kernel = load_kernel(found.kernel, cache=None)
        return kernel, _read_ramdisk(config, kernel), found.cmdline


def _read_kernel(config: Config) -> ElfKernel:
    """The kernel that `config` names, else GRUB for its disks, else the demo guest."""
    kernel = config.kernel or (_PV_GRUB if config.disks else _DEMO)
    if kernel is _PV_GRUB and not kernel.exists():
        raise KvmxenError(
            f"a disk's own system boots by {kernel}, which is not there: install grub-xen-host, or "
            "give a kernel"
        )
    return load_kernel(kernel, cache=cache_directory())


def _read_ramdisk(config: Config, kernel: ElfKernel) -> bytes | bytearray | None:
    if config.shell:
        from kvmxen.domain.initramfs import shell_initramfs

        return shell_initramfs(
            modules=find_drivers(config, kernel), size=terminal_size(config.console)
        )
    if config.ramdisk is None:
        return None
    most = config.memory
    with RegularFile(config.ramdisk, f"the ramdisk {config.ramdisk}") as file:
        return file.read(
            most, f"the guest has {most // MIB} MiB of memory; give the guest more memory"
        )


def find_drivers(config: Config, kernel: ElfKernel) -> list[Module]:
    """The modules for the shell of a guest with `kernel`; none if this host lacks them.

    Raises KvmxenError if `config` names a folder that lacks them.
    """
    from kvmxen.domain.modules import drivers

    try:
        return drivers(kernel, config.modules or Path("/"))
    except KvmxenError as error:
        if config.modules:
            raise KvmxenError(f"{error}; give another folder as --modules") from None
        if config.disks or config.nets:
            say(f"{error}: if its drivers are not built in, give their folder as --modules")
        return []
