"""The command line."""

from __future__ import annotations

from kvmxen.cli.main import main

__all__ = ["main"]
