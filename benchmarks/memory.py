"""A process's resident memory: the guest's part, and its own."""

from __future__ import annotations

import re

_GUEST = "/memfd:kvmxen-guest"
_HEAD = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S{4} \S+ \S+ \d+ *(.*)")
_SIZE = re.compile(r"(\w+): +(\d+) kB")


def resident(smaps: str) -> dict[str, int]:
    """The KiB in the text of /proc/PID/smaps (proc(5)): the guest's memory, and the rest:
    `own`, of which no other process shares `private`."""
    found = {"guest": 0, "own": 0, "private": 0}
    guest = False
    for line in smaps.splitlines():
        if head := _HEAD.fullmatch(line):
            guest = head[1].startswith(_GUEST)
        elif size := _SIZE.fullmatch(line.strip()):
            if size[1] == "Rss":
                found["guest" if guest else "own"] += int(size[2])
            elif size[1].startswith("Private_") and not guest:
                found["private"] += int(size[2])
    return found
