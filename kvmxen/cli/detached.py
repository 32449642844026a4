"""The process of a domain in the background: python -m kvmxen.cli.detached FD NAME.

Standard input has a Launch (domain/spawn.py) as JSON. When the domain is ready, or cannot be, a
line of JSON goes to the descriptor FD. NAME is for those who list processes.
"""

from __future__ import annotations

import json
import os
import sys

from kvmxen.config.codec import decode
from kvmxen.domain.spawn import Launch
from kvmxen.errors import Interrupted, KvmxenError, shortage


def main() -> int:
    """Fork, and be the domain in the child; returns the exit status."""
    fd = int(sys.argv[1])
    os.set_inheritable(fd, False)
    launch: Launch = decode(Launch, json.load(sys.stdin), "launch")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if os.fork():
        os._exit(0)
    from kvmxen.cli.foreground import boot

    def tell(**answer: object) -> None:
        nonlocal fd
        if fd >= 0:
            os.write(fd, json.dumps(answer).encode())
            os.close(fd)
            fd = -1

    try:
        return boot(
            launch.config,
            paused=launch.paused,
            timeout=launch.timeout,
            patience=launch.patience,
            ready=lambda: tell(ready=True),
            result=launch.result,
        )
    except KvmxenError as error:
        tell(error=str(error), status=error.exit_status)
        print(error, file=sys.stderr)
        return error.exit_status
    except Interrupted as interruption:
        tell(error=str(interruption), status=interruption.exit_status)
        return interruption.exit_status
    except Exception as error:
        sentence = shortage(error) or f"internal error: {type(error).__name__}: {error}"
        tell(error=sentence, status=1)
        raise


if __name__ == "__main__":
    sys.exit(main())
