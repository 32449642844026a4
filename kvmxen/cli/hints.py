"""Explains options of other tools that people type: QEMU's, xl's, virt-install's."""

from __future__ import annotations

from collections.abc import Sequence

import click

_KERNEL = "the kernel comes without an option: kvmxen boot KERNEL"
_MEANT = {
    "--ramdisk": ("initrd", "initramfs", "rd"),
    "--cmdline": ("append", "args", "extra", "extra-args", "kernel-args", "root"),
    "--memory": ("m", "mem", "ram"),
    "--vcpus": ("c", "cpus", "smp"),
    "--disk": ("blockdev", "cdrom", "drive", "hda", "hdb", "image", "sda"),
    "--net": ("netdev", "network", "nic", "vif"),
    "--console": ("nographic", "serial", "tty"),
    "--name": ("n",),
}
_HINTS = {other: f"{ours} is meant" for ours, others in _MEANT.items() for other in others}
_HINTS |= dict.fromkeys(("kernel", "k", "linux", "vmlinuz"), _KERNEL)


def explained(error: click.NoSuchOption, words: Sequence[str]) -> click.UsageError:
    """`error`, explained if the word of `words` that caused it is another tool's option."""
    for word in words:
        option = word.partition("=")[0]
        if option == "--":
            break
        hint = _HINTS.get(option.lstrip("-"))
        # click reads -kernel as -k, -e and so on.
        typed = option[:2] != "--" and error.option_name[1:] in option
        if option.startswith("-") and hint and (typed or option == error.option_name):
            return click.UsageError(f"no such option '{option}': {hint}", error.ctx)
    return error
