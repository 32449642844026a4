"""A shell completes commands, and the names of running domains."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.domain import PATIENCE, SLOWNESS
from tests.e2e.test_background import Run, run

__all__ = ["run"]

# Each completes the words that it is given and prints what it finds, a line each.
SHELLS = {
    "bash": """
        source <(_KVMXEN_COMPLETE=bash_source kvmxen)
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        _kvmxen_completion kvmxen
        printf '%s\\n' "${COMPREPLY[@]}"
    """,
    "fish": """
        _KVMXEN_COMPLETE=fish_source kvmxen | source
        complete -C "$argv" | string replace -r "\\\\t.*" ""
        true
    """,
}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes(
    shell: str, run: Run, environment: dict[str, str], pv_grub: Path, tmp_path: Path
) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"needs {shell}")
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    script = tmp_path / "script"
    script.write_text(SHELLS[shell])

    def completed(*words: str) -> list[str]:
        done = subprocess.run(
            [program, script, *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE * SLOWNESS,
            check=True,
        )
        return done.stdout.split()

    run("boot", pv_grub, "--detach", "--name", "first")
    run("boot", pv_grub, "--detach", "--name", "second")
    assert completed("kvmxen", "des") == ["destroy"]
    assert completed("kvmxen", "destroy", "f") == ["first"]
    assert completed("kvmxen", "destroy", "first", "s") == ["second"]
    assert completed("kvmxen", "xenstore", "ls", "s") == ["second"]
    assert completed("kvmxen", "boot", "--on-c") == ["--on-crash"]
    assert completed("kvmxen", "boot", "--on-crash", "p") == ["preserve"]
