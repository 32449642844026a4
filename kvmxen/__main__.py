"""python -m kvmxen, and the kvmxen command."""

from __future__ import annotations

import sys

from kvmxen.errors import shortage
from kvmxen.streams import open_missing, say


def main() -> int:
    """Run the command line; returns the exit status."""
    # This must precede every open of a file.
    open_missing()
    try:
        from kvmxen.cli import main as command_line
    except (ImportError, MemoryError, OSError) as error:
        say(shortage(error) or f"kvmxen cannot be loaded: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    return command_line()


if __name__ == "__main__":
    sys.exit(main())
