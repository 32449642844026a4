"""The user's configuration, validated."""

from __future__ import annotations

from kvmxen.config.console import ConsoleSpec
from kvmxen.config.disk import DiskSpec
from kvmxen.config.domain import Config

__all__ = ["Config", "ConsoleSpec", "DiskSpec"]
