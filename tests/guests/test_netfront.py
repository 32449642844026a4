"""A guest whose network frontend lies gets an error, and its host goes on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from tests.e2e.domain import LIMIT, Boot

# Stands in for passt: reads everything until its socket is closed.
SINK = f"""\
#!{sys.executable}
import os, sys
while os.read(int(sys.argv[sys.argv.index("--fd") + 1]), 1 << 16):
    pass
"""


def test_netfront(
    boot: Boot, guest: Callable[[str], Path], environment: dict[str, str], tmp_path: Path
) -> None:
    program = tmp_path / "bin" / "passt"
    program.parent.mkdir()
    program.write_text(SINK)
    program.chmod(0o755)
    environment["PATH"] = f"{program.parent}:{environment['PATH']}"
    domain = boot(guest("netfront"), "--net", "user", "--stats=json", "--timeout", LIMIT)
    domain.ends(0, LIMIT)
    assert domain.output.endswith("SUCCESS\n")
    counted = json.loads(domain.stderr)["vif/0"]
    assert counted["tx_packets"] == 2
    assert counted["tx_errors"] == 4 + 320 + 1
