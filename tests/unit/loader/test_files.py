"""Files that a person may name: which are read, and which never are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvmxen.errors import KvmxenError
from kvmxen.loader import files
from kvmxen.loader.files import RegularFile

NOBODY = 65534  # root reads every file


def read(path: Path, most: int = 1 << 20) -> bytes:
    with RegularFile(path, f"the ramdisk {path}") as file:
        return bytes(file.read(most, "there is room for less"))


def refused(path: Path, most: int = 1 << 20) -> str:
    with pytest.raises(KvmxenError) as caught:
        read(path, most)
    assert caught.value.exit_status == 1
    assert str(caught.value).startswith(f"the ramdisk {path} ")
    return str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "initrd"
    path.write_bytes(b"a ramdisk" * 1000)
    return path


def test_all_of_it_is_read(path: Path) -> None:
    assert read(path) == b"a ramdisk" * 1000
    assert read(path, 9000) == b"a ramdisk" * 1000


def test_a_head(path: Path) -> None:
    with RegularFile(path) as file:
        assert file.head(9) == b"a ramdisk"
        assert file.head(9) == b"a ramdisk"
        assert len(file.head(1 << 20)) == 9000


def test_a_file_too_large(path: Path) -> None:
    os.truncate(path, 5 << 20)
    assert "has 5 MiB, and there is room for less" in refused(path)
    os.truncate(path, 1 << 40)
    assert "has 1048576 MiB, and there is room for less" in refused(path)


def test_no_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_size: int) -> bytearray:
        raise MemoryError

    monkeypatch.setattr(files, "bytearray", fail, raising=False)
    assert "has 1 MiB, more than fits into memory" in refused(path)


def test_a_name_that_is_none(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "none")
    assert "cannot be read: File name too long" in refused(tmp_path / ("long" * 200))
    assert "cannot be read: embedded null byte" in refused(tmp_path / "nul\0")


def test_what_is_no_file(tmp_path: Path) -> None:
    assert "is a directory" in refused(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), Path("/dev/tty"), Path("/dev/null")):
        assert "is not a regular file" in refused(path)


def test_what_has_no_size() -> None:
    assert "is empty" in refused(Path("/proc/self/mem"))


def test_a_fifo_in_the_place_of_a_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It replaced the file after the check; opening it does not wait for a writer."""
    status = path.stat()
    monkeypatch.setattr(Path, "stat", lambda _path: status)
    path.unlink()
    os.mkfifo(path)
    assert "is not a regular file" in refused(path)


def test_no_right_to_read(path: Path) -> None:
    path.chmod(0)
    user = os.geteuid()
    os.seteuid(user or NOBODY)
    try:
        assert "you have no permission" in refused(path)
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("size", [0, 8999, 9001, 1 << 30])
def test_a_file_that_changes_its_size(path: Path, size: int) -> None:
    with RegularFile(path) as file:
        os.truncate(path, size)
        with pytest.raises(KvmxenError, match="changed while it was read"):
            file.read(1 << 20, "")


def test_a_file_that_is_written_again(path: Path) -> None:
    with RegularFile(path) as file:
        os.utime(path, (1, 1))
        with pytest.raises(KvmxenError, match="changed while it was read"):
            file.read(1 << 20, "")


def test_a_disk_that_fails(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    assert "cannot be read: Input/output error" in refused(path)
