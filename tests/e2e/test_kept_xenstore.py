"""Nodes that host tools write to a domain's xenstore survive the killing of the domain."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.e2e.domain import ROOT, Boot, Domain
from tests.e2e.smallfs import Unavailable, small_file_system

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


def destroy(domain: Domain) -> None:
    domain.process.terminate()
    domain.expect_stderr("repeat to destroy it")
    domain.process.terminate()
    domain.ends(130)


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
    assert "in use by another domain" in busy.stderr
    first.process.kill()
    first.process.wait()
    second = boot(*arguments)
    second.expect("grub> ")
    found = kvmxen(environment, "xenstore", "read", "kept", "/tool/mine")
    assert (found.returncode, found.stdout.strip()) == (0, "first")
    assert kvmxen(environment, "xenstore", "read", "kept", "/local/domain/1/data/x").returncode == 3
    found = kvmxen(environment, "xenstore", "read", "kept", "/local/domain/1/name")
    assert found.stdout.strip() == "kept"
    destroy(second)


def test_a_full_disk_is_who_wrote_s_alone(
    boot: Boot, pv_grub: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    where = tmp_path / "small"
    where.mkdir()
    with ExitStack() as stack:
        try:
            small = stack.enter_context(small_file_system(where, 1))
        except Unavailable as missing:
            pytest.skip(f"needs {missing}")
        domain = boot(pv_grub, "--name", "kept", "--xenstore", small / "store")
        domain.expect("grub> ")
        with (small / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
            while True:
                ballast.write(bytes(4096))

        def write(path: str, value: str) -> subprocess.CompletedProcess[str]:
            return kvmxen(environment, "xenstore", "write", "kept", path, value)

        written = 0
        while not (done := write(f"/tool/{written}", "v" * 1000)).returncode:
            written += 1
        assert (done.returncode, done.stderr) == (
            4,
            "kvmxen: the store refuses it: No space left on device\n",
        )
        domain.expect_stderr("No space left on device; changes are refused")
        assert write("/local/domain/1/data/x", "v").returncode == 0
        (small / "ballast").unlink()
        assert write("/tool/last", "v").returncode == 0
        domain.process.kill()
        domain.process.wait()
        again = boot(pv_grub, "--name", "kept", "--xenstore", small / "store")
        again.expect("grub> ")
        found = kvmxen(environment, "xenstore", "ls", "kept", "/tool").stdout
        assert [line.split(" = ")[0] for line in found.splitlines()] == [
            "xenstored",
            *map(str, range(written)),
            "last",
        ]
        destroy(again)


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
    assert "choose another file" in done.stderr
    if content:
        assert path.read_bytes() == content
