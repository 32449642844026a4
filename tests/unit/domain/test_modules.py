"""The drivers that a kernel has as modules: which, from where, in which order."""

from __future__ import annotations

import gzip
import lzma
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from kvmxen.config import Config, DiskSpec
from kvmxen.domain.images import find_drivers
from kvmxen.domain.modules import dependencies, drivers, kernel_version
from kvmxen.errors import KvmxenError
from kvmxen.loader.elf import ElfKernel
from kvmxen.loader.kernel import load_kernel
from tests import packages
from tests.unit.loader.images import START, Load, elf

VERSION = "6.99.1+deb13-amd64"
BANNER = f"%s version %s (%s)\0Linux version {VERSION} (who@where) (gcc) #1 SMP\n\0"
ORDER = (
    "kernel/drivers/net/xen-netfront.ko kernel/drivers/block/xen-blkfront.ko "
    "kernel/net/core/failover.ko kernel/lib/fail-lib.ko kernel/fs/ext4.ko"
)


def linux(text: str = BANNER) -> ElfKernel:
    loads = [Load(), Load(START + 0x10000, text.encode())]
    return ElfKernel.parse(elf(loads=loads))


def module(*needed: str) -> bytes:
    return b"\x7fELF...\0license=GPL\0depends=" + ",".join(needed).encode() + b"\0name=it\0"


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """make(files, where): `tmp_path` with the modules `files` in its folder `where`."""

    def make(files: dict[str, bytes], where: str = "lib/modules") -> Path:
        folder = tmp_path / where / VERSION
        for place in ORDER.split():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
        for place, content in files.items():
            (folder / place).write_bytes(content)
        (folder / "modules.order").write_text("\n".join(ORDER.split()) + "\n")
        (folder / "modules.builtin").write_text("kernel/lib/built-in.ko\n")
        return tmp_path

    return make


NET, BLOCK = "kernel/drivers/net/xen-netfront.ko", "kernel/drivers/block/xen-blkfront.ko"


def test_the_version() -> None:
    assert kernel_version(linux()) == VERSION
    with pytest.raises(KvmxenError, match="does not name its version"):
        kernel_version(linux("Linux version %s (%s)\0Linux version 6.1"))


@pytest.mark.parametrize("where", ["", "lib/modules", "usr/lib/modules"])
def test_where_they_are(make: Callable[..., Path], where: str) -> None:
    root = make({NET: module(), BLOCK: module()}, where)
    assert [m.name for m in drivers(linux(), root)] == ["xen_netfront", "xen_blkfront"]


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [(".xz", lzma.compress), (".zst", zstandard.compress), (".gz", gzip.compress)],
)
def test_compressed_ones_are_decompressed(
    make: Callable[..., Path], suffix: str, compress: Callable[[bytes], bytes]
) -> None:
    root = make({NET + suffix: compress(module()), BLOCK + suffix: compress(module())})
    assert [bytes(m.image) for m in drivers(linux(), root)] == [module(), module()]


def test_each_comes_after_those_that_it_needs(make: Callable[..., Path]) -> None:
    files = {
        NET: module("failover", "built_in"),
        BLOCK: module("failover"),
        "kernel/net/core/failover.ko": module("fail-lib"),
        "kernel/lib/fail-lib.ko": module(),
    }
    names = [m.name for m in drivers(linux(), make(files))]
    assert names == ["fail_lib", "failover", "xen_netfront", "xen_blkfront"]


def test_what_is_built_in_is_no_module(make: Callable[..., Path]) -> None:
    root = make({NET: module()})
    builtin = root / "lib/modules" / VERSION / "modules.builtin"
    builtin.write_text("kernel/drivers/block/xen-blkfront.ko\n")
    assert [m.name for m in drivers(linux(), root)] == ["xen_netfront"]


def test_modules_that_need_each_other_end(make: Callable[..., Path]) -> None:
    files = {NET: module("xen-blkfront"), BLOCK: module("xen-netfront")}
    with pytest.raises(KvmxenError, match="need each other"):
        drivers(linux(), make(files))


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({NET: module()}, "xen-blkfront.ko cannot be read: it does not exist"),
        ({NET: module("absent"), BLOCK: module()}, "has no module absent"),
        (
            {NET: module(), f"{BLOCK}.xz": lzma.compress(module())[:-9]},
            "xen-blkfront.ko.xz holds a",
        ),
        ({NET: module(), BLOCK: b""}, "xen-blkfront.ko is empty"),
    ],
)
def test_what_is_missing(make: Callable[..., Path], files: dict[str, bytes], sentence: str) -> None:
    with pytest.raises(KvmxenError, match=sentence):
        drivers(linux(), make(files))


def test_another_kernels_modules(tmp_path: Path) -> None:
    lack = re.escape(f"has no modules for the kernel's version, {VERSION}")
    with pytest.raises(KvmxenError, match=f"^{re.escape(str(tmp_path))} {lack}$"):
        drivers(linux(), tmp_path)
    with pytest.raises(KvmxenError, match=f"^/lib/modules {lack}$"):
        drivers(linux(), Path("/"))


@pytest.mark.parametrize(
    ("image", "names"),
    [
        (module(), []),
        (module("a"), ["a"]),
        (module("a-b", "c"), ["a_b", "c"]),
        (b"", []),
        (b"\0depends=a", []),
    ],
)
def test_dependencies(image: bytes, names: list[str]) -> None:
    assert dependencies(image) == names


def test_who_has_none_is_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    shell: dict[str, Any] = {"name": "a", "kernel": Path("vmlinuz"), "shell": True}
    assert find_drivers(Config(**shell), linux()) == []
    assert capsys.readouterr().err == ""
    with_disk = Config(**shell, disks=(DiskSpec(path=Path("disk")),))
    assert find_drivers(with_disk, linux()) == []
    line = capsys.readouterr().err
    assert line.startswith("kvmxen: /lib/modules has no modules for the kernel's version, ")
    assert line.endswith(" as --modules\n")
    assert line.count("\n") == 1


def test_who_names_a_folder_wants_it(tmp_path: Path) -> None:
    config = Config(name="a", kernel=Path("vmlinuz"), shell=True, modules=tmp_path)
    with pytest.raises(KvmxenError, match="; give another folder as --modules"):
        find_drivers(config, linux())


@pytest.mark.parametrize("version", ["6.1", "6.12"])
def test_debian(debian_kernel: Callable[[str], Path], version: str) -> None:
    linux = load_kernel(debian_kernel(version), cache=None)
    try:
        root = packages.modules(version, ("xen_netfront", "xen_blkfront"))
    except packages.Unavailable as error:
        pytest.skip(f"needs the modules of Debian's {version}: {error}")
    assert kernel_version(linux).startswith(f"{version}.")
    found = drivers(linux, root)
    assert [m.name for m in found] == ["xen_netfront", "xen_blkfront"]
    assert all(m.image.startswith(b"\x7fELF") for m in found)
