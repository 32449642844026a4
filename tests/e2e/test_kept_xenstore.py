"""What host tools write to a domain's xenstore is there again after the domain was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.domain import ROOT, Boot

PATIENCE = 120


def kvmxen(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kvmxen", *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_the_xenstore_outlives_its_process(
    boot: Boot, pv_grub: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    arguments = (pv_grub, "--name", "kept", "--xenstore", tmp_path / "store")
    first = boot(*arguments)
    first.expect("grub> ")
    for path, value in (("/tool/mine", "first"), ("/local/domain/1/data/x", "guest's")):
        assert kvmxen(environment, "xenstore", "write", "kept", path, value).returncode == 0
    busy = kvmxen(environment, "boot", "--xenstore", str(tmp_path / "store"))
    assert busy.returncode == 1
    assert "another domain's now" in busy.stderr
    first.process.kill()
    first.process.wait()
    second = boot(*arguments)
    second.expect("grub> ")
    found = kvmxen(environment, "xenstore", "read", "kept", "/tool/mine")
    assert (found.returncode, found.stdout.strip()) == (0, "first")
    assert kvmxen(environment, "xenstore", "read", "kept", "/local/domain/1/data/x").returncode == 3
    found = kvmxen(environment, "xenstore", "read", "kept", "/local/domain/1/name")
    assert found.stdout.strip() == "kept"
    second.process.terminate()
    second.expect_stderr("once more to destroy it")
    second.process.terminate()
    second.ends(130)


@pytest.mark.parametrize("content", [None, b"of somebody else's"])
def test_what_is_no_xenstore_is_left_alone(
    environment: dict[str, str], tmp_path: Path, content: bytes | None, kvm: None
) -> None:
    path = tmp_path / "store"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    done = kvmxen(environment, "boot", "--xenstore", str(path))
    assert done.returncode == 1
    assert done.stderr.startswith("kvmxen: ")
    assert done.stderr.count("\n") == 1
    assert "name another file" in done.stderr
    if content:
        assert path.read_bytes() == content
