"""Images of unknown origin: kvmxen uses no file that the person did not name or allow to be
named.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmxen.backends.block.chain import Chain
from kvmxen.backends.block.qemu import QemuImage
from kvmxen.config import DiskSpec
from kvmxen.errors import KvmxenError
from kvmxen.kvm.layout import PAGE_SIZE
from kvmxen.xen.abi.blkif import BlkifOp, BlkifStatus
from tests.e2e.disks import run, tool
from tests.unit.backends.block.frontend import Disk, Seg
from tests.unit.backends.block.scarcity import open_descriptors

SECRET = b"the host's own ".ljust(512, b".") * (1 << 11)
DATA_FILE, BACKING_FORMAT, UNKNOWN = 0x44415441, 0xE2792ACA, 0x6B766D78
# Offsets in the header (qemu's docs/interop/qcow2.txt).
BACKING_AT, BACKING_SIZE, FEATURES, LENGTH = 8, 16, 72, 100


@pytest.fixture(autouse=True)
def _needs_qemu() -> None:
    tool("qemu-img")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(SECRET)
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, str(len(SECRET)))
    return path


def over(path: Path, base: Path | str, form: str = "raw") -> Path:
    """An image at `path` that names `base` as its backing file, whether that exists or not."""
    size = str(len(SECRET))
    run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", form, "-b", str(base), path, size)
    return path


@contextmanager
def patched(path: Path) -> Iterator[bytearray]:
    """The bytes at the start of a file, for changing."""
    with path.open("r+b") as file:
        data = bytearray(file.read(1 << 16))
        yield data
        file.seek(0)
        file.write(data)


def with_header(path: Path, extensions: bytes, name: bytes = b"", features: int = 0) -> None:
    """Give the image these extensions, followed by the name of its backing file."""
    with patched(path) as data:
        (length,) = struct.unpack_from(">I", data, LENGTH)
        data[length : length + len(extensions)] = extensions
        end = length + len(extensions)
        data[end : end + len(name)] = name
        struct.pack_into(">QI", data, BACKING_AT, end if name else 0, len(name))
        struct.pack_into(">Q", data, FEATURES, features)


def extension(kind: int, data: bytes) -> bytes:
    padded = data.ljust(len(data) + 7 & ~7, b"\0")
    return struct.pack(">II", kind, len(data)) + padded


def refusal(path: Path, options: str = "format=qcow2") -> str:
    """The sentence that refuses the image, as passed to qemu."""
    before = open_descriptors()
    with pytest.raises(KvmxenError) as caught:
        QemuImage(DiskSpec.parse(f"{path},{options}"), 1)
    assert open_descriptors() <= before
    sentence = str(caught.value)
    assert sentence.isprintable()
    return sentence


def first_page(path: Path, options: str) -> bytes:
    """The data that a guest reads there."""
    disk = Disk(path, options)
    ring = disk.connect()
    gpa, ref = disk.page(b"nothing was read")
    assert ring.do(BlkifOp.READ, 0, Seg(ref)) is BlkifStatus.OKAY
    data = bytes(disk.domain.memory.read(gpa, PAGE_SIZE))
    disk.end()
    return data


# Data files.


def test_an_external_data_file(tmp_path: Path, secret: Path) -> None:
    """With the feature bit set, or only the extension."""
    path, size = tmp_path / "a", str(len(SECRET))
    given = f"data_file={tmp_path / 'data'},data_file_raw=on"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", given, path, size)
    assert "keeps its data in another file" in refusal(path)
    named = extension(DATA_FILE, str(secret).encode())
    for extensions, features in ((named, 4), (named, 0), (b"", 4)):
        with_header(path, extensions, features=features)
        assert "keeps its data in another file" in refusal(path)
    assert secret.read_bytes() == SECRET


# Backing files.


def test_a_backing_file_is_the_one_that_the_person_names(tmp_path: Path, secret: Path) -> None:
    """Not the one that the image names."""
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine" * (len(SECRET) // 4))
    path = over(tmp_path / "a", secret)
    assert (
        f"has a backing file, which it calls {secret}: give the file to use as backing=FILE"
        in refusal(path)
    )
    assert first_page(path, f"format=qcow2,backing={mine}") == b"mine" * (PAGE_SIZE // 4)
    assert first_page(path, "format=qcow2,backing=allow") == SECRET[:PAGE_SIZE]


def test_a_backing_file_of_a_backing_file(tmp_path: Path, secret: Path) -> None:
    """Each must be named, however the previous one was."""
    middle = over(tmp_path / "middle", secret)
    path = over(tmp_path / "a", "elsewhere/middle", "qcow2")
    assert "calls elsewhere/middle: give" in refusal(path)
    assert f"{middle} has a backing file" in refusal(path, f"format=qcow2,backing={middle}")
    named = f"format=qcow2,backing={middle},backing={secret}"
    assert first_page(path, named) == SECRET[:PAGE_SIZE]
    surplus = refusal(path, f"{named},backing={middle}")
    assert f"{secret} has no backing file: omit backing={middle}" in surplus
    # A name is relative to the image that contains it.
    over(path, "middle", "qcow2")
    over(middle, "secret")
    assert first_page(path, "format=qcow2,backing=allow") == SECRET[:PAGE_SIZE]


def test_a_backing_file_that_a_guest_could_write(tmp_path: Path, secret: Path) -> None:
    """A file given as raw is raw, whatever it contains."""
    base = over(tmp_path / "base", secret)
    path = over(tmp_path / "a", base)
    assert first_page(path, f"format=qcow2,backing={base}") == base.read_bytes()[:PAGE_SIZE]


def test_no_backing_file(image: Path, secret: Path) -> None:
    assert "has no backing file: omit" in refusal(image, f"format=qcow2,backing={secret}")
    assert first_page(image, "format=qcow2,backing=allow") == bytes(PAGE_SIZE)


def test_a_chain_that_ends_in_itself(tmp_path: Path) -> None:
    path = over(tmp_path / "a", "a", "qcow2")
    assert "is in use" in refusal(path, "format=qcow2,backing=allow")
    assert "more than 64 images" in refusal(path, "format=qcow2,backing=allow,ro")


@pytest.mark.parametrize(
    "name",
    ["json:{}", "nbd:unix:/x", "http://127.0.0.1/a", "file:secret", "fat:/etc", "a:b/c"],
)
def test_a_name_that_is_no_file(image: Path, name: str) -> None:
    with_header(image, extension(BACKING_FORMAT, b"raw"), name.encode())
    assert "is not a file: give backing=FILE" in refusal(image, "format=qcow2,backing=allow")


@pytest.mark.parametrize("form", [b"host_device", b"nbd", b"$(x)", b"vmdk"])
def test_a_format_that_is_none(image: Path, secret: Path, form: bytes) -> None:
    with_header(image, extension(BACKING_FORMAT, form), b"secret")
    for backing in ("allow", str(secret)):
        said = refusal(image, f"format=qcow2,backing={backing}")
        assert "convert that to raw or qcow2" in said


def test_a_format_that_is_not_said(image: Path, secret: Path) -> None:
    """The suggested command can be copied, whatever the name is."""
    with_header(image, extension(UNKNOWN, b"x"), b"$(touch pwned) '")
    for backing in ("allow", str(secret)):
        said = refusal(image, f"format=qcow2,backing={backing}")
        assert "does not name the format of its backing image" in said
        assert r"""-b '$(touch pwned) '"'"'' -F FORMAT""" in said


@pytest.mark.parametrize("name", [b"a\0b", b"\x1b]0;pwned\a", b"a\nb", b"\xff", "\u202e".encode()])
def test_names_that_cannot_be_printed(image: Path, name: bytes) -> None:
    for extensions in (extension(BACKING_FORMAT, b"raw"), extension(BACKING_FORMAT, name)):
        with_header(image, extensions, name)
        for options in ("format=qcow2", "format=qcow2,backing=allow"):
            assert "unprintable characters" in refusal(image, options)


@pytest.mark.parametrize(("at", "size"), [(1 << 40, 5), (200, 0), (200, 1 << 20), (65_530, 50)])
def test_names_without_an_end(image: Path, at: int, size: int) -> None:
    os.truncate(image, 1 << 16)
    with patched(image) as data:
        struct.pack_into(">QI", data, BACKING_AT, at, size)
    assert "is damaged" in refusal(image)


@pytest.mark.parametrize("behind", [False, True])
def test_a_fifo(tmp_path: Path, behind: bool) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    if behind:
        path = over(tmp_path / "a", fifo, "qcow2")
        assert f"{fifo} is neither a file" in refusal(path, f"format=qcow2,backing={fifo}")
        assert f"{fifo} is neither a file" in refusal(path, "format=qcow2,backing=allow")
    else:
        assert f"{fifo} is neither a file" in refusal(fifo)


# Headers.


def test_a_header_without_an_end(image: Path) -> None:
    with image.open("r+b") as file:
        file.seek(104)
        file.write(struct.pack(">II", UNKNOWN, 0) * 250_000)
    assert "its header has no end" in refusal(image)


def test_a_file_of_the_smallest_header(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for data in (b"", b"QFI", b"raw" * 1000, b"QFI\xfb\0\0\0\4".ljust(200, b"\0")):
        path.write_bytes(data)
        assert "is not a qcow2 image: give the right format" in refusal(path)
    assert "cannot be opened" in refusal(tmp_path / "nothing")


@pytest.mark.parametrize("form", ["qcow2", "vhd", "vmdk", "vhdx"])
def test_a_file_that_cannot_be_read(form: str) -> None:
    """The file has a hole at its beginning."""
    said = refusal(Path("/proc/self/mem"), f"format={form},ro")
    assert "/proc/self/mem cannot be read" in said or "/proc/self/mem has no size" in said


@given(st.binary(max_size=200), st.sampled_from(["", ",backing=allow", ",backing=b"]))
def test_any_header(tmp_path_factory: pytest.TempPathFactory, data: bytes, options: str) -> None:
    path = tmp_path_factory.mktemp("header") / "a"
    path.write_bytes(b"QFI\xfb\0\0\0\3" + data)
    try:
        Chain(DiskSpec.parse(f"{path},format=qcow2{options}")).close()
    except KvmxenError as error:
        assert str(error).isprintable()  # noqa: PT017


def test_what_qemu_says_is_printed_as_text(image: Path) -> None:
    """The names of features come from the image."""
    entry = struct.pack(">BB46s", 0, 20, b"\x1b]0;pwned\a")
    with_header(image, extension(0x6803F857, entry), features=1 << 20)
    said = refusal(image)
    assert "cannot be used: Unsupported qcow2 feature(s)" in said
    assert r"\x1b]0;pwned\x07" in said


# Encryption.


def encrypted(path: Path, key: Path, method: str = "luks") -> None:
    options = f"encrypt.format={method},encrypt.key-secret=s,encrypt.iter-time=10"
    options = options.rpartition(",")[0] if method == "aes" else options
    secret = ("--object", f"secret,id=s,file={key}")
    for _ in range(20):
        try:
            run("qemu-img", "create", "-q", "-f", "qcow2", *secret, "-o", options, path, "1M")
            return
        except AssertionError as error:
            # It measures how fast the host is, and gives up if a clock of 4 ms has not moved.
            if "accurate CPU usage" not in str(error):
                raise
    raise AssertionError("qemu-img finds no clock that moves")


def test_an_encrypted_image(tmp_path: Path, image: Path) -> None:
    path, key, wrong = (tmp_path / name for name in ("a", "key", "wrong"))
    key.write_bytes(b"open, sesame")
    wrong.write_bytes(b"open, sesame\n")
    encrypted(path, key)
    assert "is encrypted: give key=FILE" in refusal(path)
    said = refusal(path, f"format=qcow2,key={wrong}")
    assert f"the key in {wrong} does not open it; all of the file is the key, a newline" in said
    said = refusal(path, f"format=qcow2,key={path.parent}")
    assert f"the key {path.parent} is not a file" in said
    assert "is not encrypted: omit key=" in refusal(image, f"format=qcow2,key={key}")
    top = over(tmp_path / "top", path, "qcow2")
    said = refusal(top, f"format=qcow2,backing={path}")
    assert f"{path} is encrypted, which is not supported: convert it" in said
    disk = Disk(path, f"format=qcow2,key={key}")
    ring = disk.connect()
    gpa, ref = disk.page(b"plain text" * 100)
    assert ring.do(BlkifOp.WRITE, 0, Seg(ref)) is BlkifStatus.OKAY
    disk.domain.memory.zero(gpa, PAGE_SIZE)
    assert ring.do(BlkifOp.READ, 0, Seg(ref)) is BlkifStatus.OKAY
    assert disk.domain.memory.read(gpa, 1000) == b"plain text" * 100
    disk.end()
    assert b"plain text" not in path.read_bytes()


def test_encryption_of_the_old_kind(image: Path) -> None:
    with patched(image) as data:
        struct.pack_into(">I", data, 32, 1)
    assert "is encrypted by a method that is no longer safe" in refusal(image, "format=qcow2,key=k")


# Other formats.

Change = Callable[[bytearray], object]


def other(path: Path, form: str, *options: str) -> Path:
    size = str(len(SECRET))
    run("qemu-img", "create", "-q", "-f", form, *options, path, size)
    return path


@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        ("vhd", "vpc", ()),
        ("vhd", "vpc", ("-o", "subformat=fixed")),
        ("vmdk", "vmdk", ()),
        ("vhdx", "vhdx", ()),
        ("vhdx", "vhdx", ("-o", "subformat=fixed")),
    ],
)
def test_there_and_back(tmp_path: Path, ours: str, theirs: str, options: tuple[str, ...]) -> None:
    path, raw = tmp_path / "a", tmp_path / "raw"
    other(path, theirs, *options)
    disk = Disk(path, f"format={ours}")
    assert int(disk.node("sectors") or 0) >= len(SECRET) // 512
    ring = disk.connect()
    _, ref = disk.page(SECRET[:PAGE_SIZE])
    assert ring.do(BlkifOp.WRITE, 800, Seg(ref)) is BlkifStatus.OKAY
    assert ring.flush() is BlkifStatus.OKAY
    disk.end()
    run("qemu-img", "convert", "-f", theirs, "-O", "raw", path, raw)
    assert raw.read_bytes()[800 * 512 :][:PAGE_SIZE] == SECRET[:PAGE_SIZE]
    assert f"is not a {ours} image" in refusal(raw, f"format={ours}")


def test_a_differencing_vhd(tmp_path: Path) -> None:
    path = other(tmp_path / "a", "vpc")
    data = bytearray(path.read_bytes())
    for footer in (0, len(data) - 512):
        struct.pack_into(">I", data, footer + 60, 4)
    path.write_bytes(data)
    assert "depends on a parent vhd image" in refusal(path, "format=vhd")


def test_a_fixed_vhd_whose_guest_wrote_a_header(tmp_path: Path) -> None:
    """qemu would take it for a dynamic image, and the guest's data for its tables."""
    path = other(tmp_path / "a", "vpc", "-o", "subformat=fixed")
    with patched(path) as data:
        data[:512] = path.read_bytes()[-512:]
        struct.pack_into(">I", data, 60, 3)
    assert "its header and its footer differ" in refusal(path, "format=vhd")


@pytest.mark.parametrize(
    "subformat",
    ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"],
)
def test_a_vmdk_of_several_files(tmp_path: Path, subformat: str) -> None:
    path = other(tmp_path / "a.vmdk", "vmdk", "-o", f"subformat={subformat}")
    assert "is not a vmdk image in one file" in refusal(path, "format=vmdk")


@pytest.mark.parametrize(
    "change",
    [
        lambda data: struct.pack_into("<Q", data, 12, 0),
        lambda data: data.__setitem__(slice(512, 1024), bytes(512)),
        lambda data: replace(data, b"monolithicSparse", b"monolithicFlat  "),
        lambda data: replace(data, b"SPARSE", b"FLAT  "),
        lambda data: replace(data, b"\nRW ", b'\nRW 1 SPARSE "/etc/shadow"\nRW '),
    ],
)
def test_a_vmdk_that_says_it_has_others(tmp_path: Path, change: Change) -> None:
    path = other(tmp_path / "a", "vmdk")
    with patched(path) as data:
        change(data)
    assert "keeps its data in other files" in refusal(path, "format=vmdk")


def replace(data: bytearray, old: bytes, new: bytes) -> None:
    """Replace a string that occurs once, and keep everything after it in place."""
    at = data.index(old)
    end = data.index(b"\0", at)
    changed = data[at:end].replace(old, new, 1)
    data[at : at + len(changed)] = changed
    assert data[at:].startswith(new)


def test_a_vmdk_with_a_parent(tmp_path: Path) -> None:
    base = other(tmp_path / "base", "vmdk")
    path = tmp_path / "a"
    run("qemu-img", "create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", base, path)
    assert "depends on a parent vmdk image" in refusal(path, "format=vmdk")


def test_a_vmdk_that_can_only_be_read(tmp_path: Path, secret: Path) -> None:
    path = tmp_path / "a"
    given: tuple[Any, ...] = ("-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized")
    run("qemu-img", "convert", *given, secret, path)
    assert "is a read-only kind of vmdk image: give ,ro" in refusal(path, "format=vmdk")
    assert first_page(path, "format=vmdk,ro") == SECRET[:PAGE_SIZE]


def test_a_vhdx_with_a_parent(tmp_path: Path) -> None:
    """qemu-img cannot create one."""
    path = other(tmp_path / "a", "vhdx")
    data = bytearray(path.read_bytes())
    parameters = bytes.fromhex("3767a1ca36fa434db3b633f0aa44e76b")
    item = data.index(parameters)
    table = data.index(b"metadata")
    (offset,) = struct.unpack_from("<I", data, item + 16)
    (bits,) = struct.unpack_from("<I", data, table + offset + 4)
    struct.pack_into("<I", data, table + offset + 4, bits | 2)
    path.write_bytes(data)
    assert "depends on a parent vhdx image" in refusal(path, "format=vhdx")
    os.truncate(path, 1 << 16)
    assert "is damaged: it has no metadata" in refusal(path, "format=vhdx")
