"""`python -m benchmarks.xenstored.serve SOCKET`: serves a store of ours, with no guest, until
killed.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from kvmxen.xenstore.server.server import Server
from kvmxen.xenstore.store import Store


def main() -> None:
    """Serve until the process is killed."""

    def fail(error: BaseException) -> None:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)

    with Server(Store(), Path(sys.argv[1]), fail):
        threading.Event().wait()


if __name__ == "__main__":
    main()
