"""The program kvmxen-xl, also by the name xl: Xen's command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from kvmxen.cli.main import run
from kvmxen.front.xl.commands import xl


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line of xl; returns 0 or 1, as xl does."""
    from kvmxen.cli.console import attach

    words = sys.argv[1:] if arguments is None else arguments
    return int(run(xl, words, "xl", obj=attach) != 0)
