"""A guest whose block frontend lies gets an error, and its host goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.e2e.domain import LIMIT, SLOWNESS, Boot
from tests.resources import found

SIZE = 4 << 20
FILL = b"\xaa"
# The only page that the guest's honest writes change.
SCRATCH = SIZE - 4096
# The requests of each race.
REQUESTS = 20_000 // SLOWNESS


def test_blkfront(boot: Boot, guest: Callable[[str], Path], tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(FILL * SIZE)
    options = ("--vcpus", 2, "--disk", f"{image},persistent", "--stats=json", "--timeout", LIMIT)
    domain = boot(guest("blkfront"), "--cmdline", f"requests={REQUESTS}", *options)
    domain.ends(0, LIMIT)
    assert domain.output.endswith("SUCCESS\n")
    figures = json.loads(domain.stderr)
    counted = figures["vbd/51712"]
    assert counted["errors"] > 100
    assert counted["kicks"] > 100
    # If the dispatcher is in ring 0, they are not exits.
    dispatched = figures["dispatched_in_guest"].get("event_channel_op", 0)
    assert (dispatched > 100) == ("needs_ring0" in found())
    content = image.read_bytes()
    assert content[:SCRATCH] == FILL * SCRATCH
    assert len(content) == SIZE
