"""From a path to a kernel: the files that a person may name, and the cache."""

from __future__ import annotations

import lzma
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import zstandard

from kvmxen.errors import Interrupted, KvmxenError
from kvmxen.loader import cache as cache_module
from kvmxen.loader import elf_reader, unpack
from kvmxen.loader import kernel as module
from kvmxen.loader.decompress import MAX_OUTPUT, Check, decompress_payload
from kvmxen.loader.facts import Facts
from kvmxen.loader.facts import Load as Placed
from kvmxen.loader.files import RegularFile
from kvmxen.loader.kernel import load_kernel
from tests.unit.loader.images import ENTRY, Load, bzimage, elf, gzip
from tests.unit.loader.test_decompress import STREAMS, sized

LONG_AGO = 10**18  # ns since 1970: in 2001
NOBODY = 65534  # root reads every file


@pytest.fixture
def file(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes) -> Path:
        path = tmp_path / "vmlinuz"
        path.write_bytes(content)
        return path

    return write


def refused(path: Path) -> str:
    with pytest.raises(KvmxenError) as caught:
        load_kernel(path, cache=None)
    assert caught.value.exit_status == 1
    assert str(caught.value).startswith(f"{path} ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        elf(),
        bzimage(gzip(elf())),
        *(compress(elf()) for compress in STREAMS.values()),
        gzip(bzimage(gzip(elf()))),
        lzma.compress(bzimage(sized(zstandard.compress(elf()), elf()))),
    ],
    ids=["elf", "bzimage", *STREAMS, "gzip of a bzImage", "xz of a bzImage"],
)
def test_kernels(file: Callable[[bytes], Path], content: bytes) -> None:
    assert load_kernel(file(content), cache=None).entry == ENTRY


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"#!/bin/sh\necho no kernel\n" * 100, "is neither a bzImage nor an ELF file"),
        (b"x", "is neither a bzImage nor an ELF file"),
        (bzimage(gzip(elf()))[:-500], "is a truncated bzImage"),
        (bzimage(gzip(b"no kernel")), "holds no ELF kernel"),
        (gzip(b"no kernel" * 99), "holds neither a bzImage nor an ELF kernel"),
        (gzip(gzip(elf())), "holds neither a bzImage nor an ELF kernel"),
        (bzimage(gzip(bzimage(gzip(elf())))), "holds no ELF kernel"),
        (bzimage(b"no payload at all"), "unknown compression"),
        (bzimage(gzip(elf())[:-10] + bytes(10)), "corrupt"),
        (elf({}), "has no Xen notes"),
    ],
)
def test_no_kernels(file: Callable[[bytes], Path], content: bytes, message: str) -> None:
    assert message in refused(file(content))


def test_a_missing_file(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "missing")
    assert "cannot be read" in refused(tmp_path / ("long" * 200))


def test_a_file_as_a_folder(file: Callable[[bytes], Path]) -> None:
    assert "cannot be read" in refused(file(b"x") / "vmlinuz")


def test_a_directory(tmp_path: Path) -> None:
    assert "is a directory" in refused(tmp_path)


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is not a regular file" in refused(tmp_path / "pipe")


def test_a_file_without_the_right_to_read(file: Callable[[bytes], Path]) -> None:
    path = file(elf())
    path.chmod(0)
    user = os.geteuid()
    os.seteuid(user or NOBODY)
    try:
        assert "you have no permission" in refused(path)
    finally:
        os.seteuid(user)


def test_a_file_too_large(tmp_path: Path) -> None:
    path = tmp_path / "large"
    for content, most in ((elf(), module.MAX_FILE), (bzimage(gzip(elf())), MAX_OUTPUT)):
        path.write_bytes(content)
        os.truncate(path, most + (2 << 20))
        assert f"has {(most >> 20) + 2} MiB, and more than {most >> 20} MiB" in refused(path)


def test_a_large_file_of_nothing_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RegularFile, "read", None)
    path = tmp_path / "large"
    path.touch()
    os.truncate(path, module.MAX_FILE)
    assert "is neither a bzImage nor an ELF file" in refused(path)


class Work:
    """Counts how often a kernel was unpacked, and how often pyelftools read one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.unpacked = self.read = 0
        monkeypatch.setattr(unpack, "decompress_payload", self._decompress)
        self._read = elf_reader.read
        monkeypatch.setattr(elf_reader, "read", self._counted_read)

    def _decompress(self, payload: memoryview, check: Check) -> bytearray:
        self.unpacked += 1
        return decompress_payload(payload, check)

    def _counted_read(self, image: memoryview) -> Facts:
        self.read += 1
        return self._read(image)


def spoil(path: Path, how: Callable[[bytes], bytes], *, unseen: bool) -> None:
    """Change the contents of the file `path`; if `unseen`, keep its modification time."""
    before = path.stat()
    path.write_bytes(how(path.read_bytes()))
    if unseen:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


SPOILS: dict[str, Callable[[bytes], bytes]] = {
    "last byte": lambda content: content[:-1],
    "cut": lambda content: content[:200],
    "empty": lambda _content: b"",
    "longer": lambda content: content + b"x",
    "altered": lambda content: content[:100] + bytes([content[100] ^ 0xFF]) + content[101:],
    "zeros": lambda content: bytes(len(content)),
}


class TestCache:
    """Each test loads a bzImage through a cache in `tmp_path / "cache"`."""

    @pytest.fixture
    def path(self, file: Callable[[bytes], Path]) -> Path:
        path = file(bzimage(gzip(elf())))
        # Not the time when a test damages the image: clocks are coarse.
        os.utime(path, ns=(LONG_AGO, LONG_AGO))
        return path

    @pytest.fixture
    def cache(self, tmp_path: Path) -> Path:
        return tmp_path / "cache"

    @pytest.fixture
    def work(self, monkeypatch: pytest.MonkeyPatch) -> Work:
        return Work(monkeypatch)

    @pytest.fixture(autouse=True)
    def _settled(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let a file written a moment ago count as an old one."""
        monkeypatch.setattr(cache_module, "_SETTLED_NS", 0)

    def test_the_second_time_nothing_is_unpacked_or_read(
        self, path: Path, cache: Path, work: Work
    ) -> None:
        first = load_kernel(path, cache=cache)
        second = load_kernel(path, cache=cache)
        assert (work.unpacked, work.read) == (1, 1)
        assert bytes(second.segments[0].data) == bytes(first.segments[0].data)
        assert second.notes == first.notes

    def test_an_elf_file_is_read_once(
        self, file: Callable[[bytes], Path], cache: Path, work: Work
    ) -> None:
        path = file(elf())
        first = load_kernel(path, cache=cache)
        second = load_kernel(path, cache=cache)
        assert (work.unpacked, work.read) == (0, 1)
        assert second == first
        assert [kept.suffix for kept in cache.iterdir()] == [".facts"]

    def test_it_is_private_and_holds_nothing_but_the_image_and_its_facts(
        self, path: Path, cache: Path
    ) -> None:
        load_kernel(path, cache=cache)
        assert cache.stat().st_mode & 0o777 == 0o700
        facts, image = sorted(cache.iterdir())
        assert (facts.suffix, image.suffix) == (".facts", ".vmlinux")
        assert facts.stem == image.stem
        assert image.read_bytes() == elf()
        assert Facts.decode(facts.read_bytes()) == elf_reader.read(memoryview(elf()))
        assert (image.stat().st_mode | facts.stat().st_mode) & 0o077 == 0

    @pytest.mark.parametrize("how", SPOILS.values(), ids=SPOILS)
    @pytest.mark.parametrize(
        ("suffix", "unseen"), [(".vmlinux", False), (".facts", False), (".facts", True)]
    )
    def test_a_spoilt_file_is_replaced(
        self,
        path: Path,
        cache: Path,
        work: Work,
        suffix: str,
        unseen: bool,
        how: Callable[[bytes], bytes],
    ) -> None:
        load_kernel(path, cache=cache)
        (kept,) = cache.glob(f"*{suffix}")
        whole = kept.read_bytes()
        spoil(kept, how, unseen=unseen)
        assert load_kernel(path, cache=cache).entry == ENTRY
        assert (work.unpacked, work.read) == (2, 2)
        assert kept.read_bytes() == whole
        assert load_kernel(path, cache=cache).entry == ENTRY
        assert (work.unpacked, work.read) == (2, 2)

    @pytest.mark.parametrize("how", ["cut", "empty"])
    def test_an_image_that_lost_bytes_unseen_is_replaced(
        self, path: Path, cache: Path, work: Work, how: str
    ) -> None:
        load_kernel(path, cache=cache)
        (kept,) = cache.glob("*.vmlinux")
        spoil(kept, SPOILS[how], unseen=True)
        assert load_kernel(path, cache=cache).entry == ENTRY
        assert work.unpacked == 2
        assert kept.read_bytes() == elf()

    @pytest.mark.parametrize(
        "facts",
        [
            Facts(ENTRY, (), {}),
            Facts(ENTRY, (Placed(0, 0, 4096, 1 << 60, 4096),), {}),
            Facts(ENTRY, (Placed(0, 0, 4096, 0, 64),), {}),
        ],
        ids=["nothing", "beyond the file", "no notes"],
    )
    def test_facts_that_lie_are_replaced(
        self, path: Path, cache: Path, work: Work, facts: Facts
    ) -> None:
        first = load_kernel(path, cache=cache)
        (kept,) = cache.glob("*.facts")
        spoil(kept, lambda _: facts.encode(), unseen=True)
        assert load_kernel(path, cache=cache) == first
        assert (work.unpacked, work.read) == (2, 2)
        assert load_kernel(path, cache=cache).notes == first.notes
        assert (work.unpacked, work.read) == (2, 2)

    @pytest.mark.parametrize("suffix", [".vmlinux", ".facts"])
    def test_what_has_gone_is_made_again(
        self, path: Path, cache: Path, work: Work, suffix: str
    ) -> None:
        load_kernel(path, cache=cache)
        (kept,) = cache.glob(f"*{suffix}")
        whole = kept.read_bytes()
        kept.unlink()
        assert load_kernel(path, cache=cache).entry == ENTRY
        assert (work.unpacked, work.read) == (2, 2)
        assert kept.read_bytes() == whole

    def test_another_kernel_in_its_place_is_read(
        self, file: Callable[[bytes], Path], path: Path, cache: Path, work: Work
    ) -> None:
        load_kernel(path, cache=cache)
        before = path.stat()
        other = bytearray(path.read_bytes())
        other[0] ^= 1
        while path.stat().st_ctime_ns == before.st_ctime_ns:
            file(bytes(other))
            os.utime(path, ns=(LONG_AGO, LONG_AGO))
        after = path.stat()
        assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)
        assert load_kernel(path, cache=cache).entry == ENTRY
        assert work.unpacked == 2

    def test_what_may_yet_change_unseen_is_not_kept(
        self, monkeypatch: pytest.MonkeyPatch, path: Path, cache: Path, work: Work
    ) -> None:
        monkeypatch.setattr(cache_module, "_SETTLED_NS", 1 << 62)
        for _ in range(2):
            assert load_kernel(path, cache=cache).entry == ENTRY
        assert work.unpacked == 2
        assert not cache.exists()

    def test_a_kernel_outlives_its_file(self, path: Path, cache: Path) -> None:
        load_kernel(path, cache=cache)
        kernel = load_kernel(path, cache=cache)
        for kept in cache.iterdir():
            kept.unlink()
        assert bytes(kernel.segments[0].data) == bytes(Load().data)

    def test_trouble_does_not_fail_the_boot(self, path: Path, cache: Path, work: Work) -> None:
        cache.write_bytes(b"a file where the folder should be")
        assert load_kernel(path, cache=cache).entry == ENTRY
        assert load_kernel(path, cache=cache / "below").entry == ENTRY
        assert work.unpacked == 2

    @pytest.mark.parametrize("error", [OSError(28, "full"), Interrupted("no", 130)])
    def test_what_was_not_kept_whole_is_not_kept(
        self,
        monkeypatch: pytest.MonkeyPatch,
        path: Path,
        cache: Path,
        error: BaseException,
    ) -> None:
        def fail(_fd: int) -> None:
            raise error

        monkeypatch.setattr(os, "fsync", fail)
        with suppress(Interrupted):
            load_kernel(path, cache=cache)
        assert list(cache.iterdir()) == []

    def test_a_folder_that_others_can_write_is_not_used(self, path: Path, cache: Path) -> None:
        cache.mkdir()
        cache.chmod(0o777)
        assert load_kernel(path, cache=cache).entry == ENTRY
        assert list(cache.iterdir()) == []

    def test_only_the_latest_are_kept(self, tmp_path: Path, cache: Path) -> None:
        for number in range(12):
            path = tmp_path / f"vmlinuz-{number}"
            path.write_bytes(bzimage(gzip(elf())))
            load_kernel(path, cache=cache)
        assert len(list(cache.glob("*.vmlinux"))) == 8
        assert len(list(cache.glob("*.facts"))) == 8
        assert len(list(cache.iterdir())) == 16

    def test_many_elf_files_leave_the_images_of_others(
        self, tmp_path: Path, path: Path, cache: Path
    ) -> None:
        load_kernel(path, cache=cache)
        for number in range(12):
            unikernel = tmp_path / f"unikernel-{number}"
            unikernel.write_bytes(elf())
            load_kernel(unikernel, cache=cache)
        assert len(list(cache.glob("*.vmlinux"))) == 1
        assert len(list(cache.glob("*.facts"))) == 8

    @pytest.mark.parametrize(
        "image", [bytes(1 << 20), elf({}), elf()[:5000]], ids=["zeros", "no notes", "cut"]
    )
    def test_what_is_no_pv_kernel_is_not_kept(
        self, file: Callable[[bytes], Path], cache: Path, image: bytes
    ) -> None:
        with pytest.raises(KvmxenError):
            load_kernel(file(bzimage(gzip(image))), cache=cache)
        assert not cache.exists()

    def test_corrupt_payloads_are_not_kept(
        self, file: Callable[[bytes], Path], cache: Path
    ) -> None:
        payload = bytearray(gzip(elf()))
        payload[20:30] = bytes(10)
        with pytest.raises(KvmxenError, match="corrupt"):
            load_kernel(file(bzimage(bytes(payload))), cache=cache)
        assert not cache.exists()


def test_pv_grub(pv_grub: Path) -> None:
    grub = load_kernel(pv_grub, cache=None)
    assert grub.notes.guest_os == "GRUB"
    assert (grub.entry, grub.notes.virt_base, grub.notes.init_p2m) == (0, 0, None)


@pytest.mark.parametrize("version", ["6.1", "6.12"])
def test_debian(debian_kernel: Callable[[str], Path], version: str) -> None:
    linux = load_kernel(debian_kernel(version), cache=None)
    assert linux.notes.guest_os == "linux"
    assert linux.notes.init_p2m == 0x80_0000_0000
    assert linux.notes.mod_start_pfn
    assert linux.notes.virt_base == 0xFFFF_FFFF_8000_0000
    assert "writable_page_tables" in linux.notes.required
    assert linux.start <= linux.entry < linux.end
