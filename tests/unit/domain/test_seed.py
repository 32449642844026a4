"""The disk for cloud-init, read by programs of others."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from uuid import UUID

import pytest

from kvmxen import CloudInit, Config, DiskSpec, KvmxenError, UsageError
from kvmxen.domain.seed import with_seed

USER = b"#cloud-config\nhostname: not-this\n" + b"# long\n" * 1000


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "user").write_bytes(USER)
    return Config(name="web", kernel=Path("k"), cloud_init=CloudInit(tmp_path / "user"))


def seeded(config: Config, folder: Path) -> DiskSpec:
    made = with_seed(config, UUID(int=7), folder)
    assert made.cloud_init is None
    (disk,) = made.disks
    return disk


def tool(name: str) -> str:
    found = shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin")
    if found is None:
        pytest.skip(f"needs {name}")
    return found


def test_it_has_the_label_that_is_looked_for(config: Config, tmp_path: Path) -> None:
    disk = seeded(config, tmp_path)
    assert (disk.readonly, disk.format, disk.target) == (True, "raw", "xvda")
    command = [tool("blkid"), "-p", "-o", "export", str(disk.path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert {"LABEL=cidata", "TYPE=iso9660"} <= set(told.splitlines())


def content(disk: DiskSpec, name: str) -> bytes:
    command = [tool("bsdtar"), "-x", "-O", "-f", str(disk.path), name]
    return subprocess.run(command, capture_output=True, check=True).stdout


def test_the_users_data_are_as_they_were(config: Config, tmp_path: Path) -> None:
    disk = seeded(config, tmp_path)
    assert content(disk, "user-data") == USER
    meta = content(disk, "meta-data").decode()
    assert meta == f"instance-id: {UUID(int=7)}\nlocal-hostname: web\n"


def test_meta_data_of_ones_own(tmp_path: Path, config: Config) -> None:
    (tmp_path / "meta").write_text("instance-id: mine\n")
    both = CloudInit.parse(f"{tmp_path}/user,{tmp_path}/meta")
    disk = seeded(Config(name="web", kernel=Path("k"), cloud_init=both), tmp_path)
    assert content(disk, "meta-data") == b"instance-id: mine\n"


def test_without_it_nothing_is_made(tmp_path: Path) -> None:
    config = Config(name="web")
    assert with_seed(config, UUID(int=7), tmp_path) is config
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    config = Config(name="web", kernel=Path("k"), cloud_init=CloudInit(tmp_path / "absent"))
    with pytest.raises(KvmxenError, match="absent for cloud-init"):
        with_seed(config, UUID(int=7), tmp_path)


@pytest.mark.parametrize("text", ["", ",", "user,", ",meta"])
def test_what_names_no_file(text: str) -> None:
    with pytest.raises(UsageError, match="names no file"):
        CloudInit.parse(text)
