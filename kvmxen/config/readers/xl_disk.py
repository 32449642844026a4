"""The disks of xl's configuration files (xl-disk-configuration(5)), old forms included."""

from __future__ import annotations

import re
from dataclasses import replace

from kvmxen.config.disk import DiskSpec
from kvmxen.errors import UsageError

# The path comes last after target=, and may have commas.
_TARGET = re.compile(r"(?:^|,)\s*target=")
_KEY = re.compile(r"([a-z][a-z-]*)=(.*)", re.DOTALL)
# Names of drivers before a path; some of them tell its format.
_DRIVERS = re.compile(r"(?:(?:file|phy|tap2?|ioemu):)*(?:(aio|raw|qcow2?|qed|vhd):)?")
_OLD_DEVICE = re.compile(r"(?:ioemu:)?(\w+):(cdrom|disk)|ioemu:(\w+)", re.ASCII)
# Hints for Xen's own backends.
_HINTS = ("direct-io-safe",)


def read_disk(text: str) -> DiskSpec:
    """The disk that `text` describes; raises UsageError, also for what kvmxen does not do."""
    found = _TARGET.search(text)
    head = text[: found.start()] if found else text
    parts = [part.lstrip() for part in head.split(",")]
    words = [word for part in parts for word in _words(part, first=part is parts[0])]
    if found:
        words.append(f"target={text[found.end() :]}")
    spec = DiskSpec.parse(",".join(words))
    if not spec.target:
        raise UsageError(f"disk {text!r:.80} has no device in the guest: add xvda")
    # xl has no CD-ROM that can be written.
    return replace(spec, readonly=True) if spec.cdrom else spec


def _words(part: str, *, first: bool) -> list[str]:
    """What DiskSpec.parse() takes for a part."""
    if match := _KEY.fullmatch(part):
        key, value = match.groups()
        if key in ("script", "backend") and value not in ("", "0", "Domain-0"):
            raise UsageError(f"kvmxen does not do {key}={value:.60} of a disk: remove it")
        return [] if key in ("script", "backend") else [part]
    if first:
        drivers = _DRIVERS.match(part)
        assert drivers is not None
        form = "raw" if drivers[1] == "aio" else drivers[1]
        return [part[drivers.end() :], *([f"format={form}"] if form else [])]
    if part in _HINTS:
        return []
    if match := _OLD_DEVICE.fullmatch(part):
        device, kind, plain = match.groups()
        return [plain] if plain else [device, kind]
    return [part]
