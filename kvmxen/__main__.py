"""python -m kvmxen, and the commands kvmxen and kvmxen-xl; the latter also by the name xl."""

from __future__ import annotations

import sys
from pathlib import Path

from kvmxen.errors import shortage
from kvmxen.streams import open_missing, say


def virtxend() -> int:
    """Run kvmxen server: libvirt's clients start the server of xen:///session by this name."""
    return main(["server", *sys.argv[1:]])


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, sys.argv's if none is given; returns the exit status."""
    # This must precede every open of a file.
    open_missing()
    try:
        if Path(sys.argv[0]).name in ("xl", "kvmxen-xl"):
            from kvmxen.cli.xl import main as command_line
        else:
            from kvmxen.cli import main as command_line
    except (ImportError, MemoryError, OSError) as error:
        say(shortage(error) or f"kvmxen cannot be loaded: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    return command_line(arguments)


if __name__ == "__main__":
    sys.exit(main())
