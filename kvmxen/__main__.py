"""python -m kvmxen, and the kvmxen command."""

from __future__ import annotations

import sys

from kvmxen.cli import main

if __name__ == "__main__":
    sys.exit(main())
