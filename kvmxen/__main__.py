"""python -m kvmxen, and the kvmxen command."""

from __future__ import annotations

import sys

from kvmxen.streams import open_missing


def main() -> int:
    """Run the command line; returns the exit status."""
    # Before anything opens a file.
    open_missing()
    from kvmxen.cli import main as command_line

    return command_line()


if __name__ == "__main__":
    sys.exit(main())
