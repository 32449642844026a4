"""kvmxen convert: the same domain in each format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmxen import Config, ConsoleSpec, DiskSpec, UsageError
from kvmxen.cli import main
from kvmxen.cli.convert import _FORMATS
from kvmxen.config.cloud_init import CloudInit
from kvmxen.config.net import Forward, NetSpec, Rate
from kvmxen.config.sizes import MIB

XL = """
name = "web"
kernel = "/boot/vmlinuz"
cmdline = "root=/dev/xvda quiet"
memory = 128
maxmem = 256
vcpus = 2
disk = [ "/srv/web.img,raw,xvda,rw" ]
vif = [ "bridge=br0,mac=00:16:3e:00:00:01" ]
on_crash = "preserve"
"""


@pytest.mark.parametrize("first", _FORMATS)
@pytest.mark.parametrize("second", _FORMATS)
def test_every_format_says_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], first: str, second: str
) -> None:
    path = tmp_path / "web"
    path.write_text(XL)

    def converted(source: str, target: str) -> str:
        assert main(["convert", "--from", source, "--to", target, str(path)]) == 0
        told = capsys.readouterr()
        assert told.err == ""
        return told.out

    once = converted("xl", "xl")
    for source, target in (("xl", first), (first, second), (second, "xl")):
        text = converted(source, target)
        path.write_text(text)
    assert text == once


@pytest.mark.parametrize(
    ("words", "target", "sentence"),
    [
        ("--memory lots", "xl", "'lots' is not a memory size"),
        ("--no-such-option", "xl", "f: No such option"),
        ("--disk 'x", "xl", "f is no command: no closing quotation"),
        ("--ramdisk r", "xl", "f: --ramdisk needs a kernel"),
        ("k --shell", "xl", "xl's files have no shell"),
        ("k --debug", "xl", "the format xl cannot say all of debug"),
        ("k --net user,forward=tcp:1:2", "libvirt", "cannot say all of nets"),
        ("k --disk x,cache=none", "xl", "cannot say all that is asked of the disk"),
        ("k --cloud-init a", "libvirt", "cannot say all of cloud_init"),
        ("k --timeout 5", "xl", "f: --timeout is not part of a domain's configuration"),
    ],
)
def test_what_a_format_cannot_say_is_an_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: str,
    target: str,
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("f").write_text(words)
    assert main(["convert", "--from", "options", "--to", target, "f"]) == 2
    told = capsys.readouterr()
    assert sentence in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""


def test_a_file_has_a_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    big = tmp_path / "big"
    big.write_bytes(b"#" * (1 << 20) + b"\n")
    for source in _FORMATS:
        assert main(["convert", "--from", source, "--to", "xl", str(big)]) == 2
        assert "is larger than 1 MiB" in capsys.readouterr().err
    assert main(["convert", "--from", "xl", "--to", "xl", str(tmp_path / "absent")]) == 1
    assert "No such file" in capsys.readouterr().err


RATES = st.builds(Rate, st.integers(1, 1 << 30), st.sampled_from([50_000, 1000, 999, 1_000_000]))
NETS = st.builds(
    NetSpec,
    st.just("user"),
    mac=st.sampled_from(["", "00:16:3e:00:00:01"]),
    rate=st.none() | RATES,
    host_loopback=st.booleans(),
    forwards=st.lists(
        st.sampled_from([Forward("tcp", "::1", 1, 2), Forward("udp", "127.0.0.1", 3, 4)])
    ).map(tuple),
) | st.builds(NetSpec, st.just("tap"), st.sampled_from(["", "web0"]), st.sampled_from(["", "br0"]))
FILES = st.sampled_from([Path("/a b"), Path("/c'd\""), Path("/$e"), Path("/\udcff")])
DISKS = st.builds(
    DiskSpec,
    path=FILES | st.just(Path("/f,g")),
    readonly=st.booleans(),
    cdrom=st.booleans(),
    cache=st.sampled_from(["writeback", "none", "unsafe"]),
    discard=st.booleans(),
    persistent=st.booleans(),
    sector_size=st.sampled_from([512, 4096]),
) | st.builds(
    DiskSpec,
    path=FILES,
    format=st.just("qcow2"),
    backing=st.lists(FILES, max_size=2).map(tuple),
    key=st.none() | FILES,
)
CONFIGS = st.builds(
    Config,
    name=st.just("web"),
    kernel=FILES,
    ramdisk=st.none() | FILES,
    cmdline=st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), max_size=20),
    memory=st.integers(8192, 9000).map(lambda pages: pages * 4096),
    max_memory=st.sampled_from([0, 64 * MIB]),
    vcpus=st.just(2),
    max_vcpus=st.sampled_from([0, 3]),
    disks=st.lists(DISKS, max_size=2).map(tuple),
    nets=st.lists(NETS, max_size=2).map(tuple),
    uuid=st.none() | st.just(UUID(int=7)),
    on_crash=st.sampled_from(["destroy", "preserve"]),
    shim=st.sampled_from(["dispatch", "exits"]),
    break_event_loops=st.booleans(),
    cloud_init=st.none() | st.builds(CloudInit, FILES, st.none() | FILES),
    xenstore=st.none() | FILES,
    console=st.sampled_from([ConsoleSpec("stdio"), ConsoleSpec("file", Path("/x y"))]),
)


@given(CONFIGS)
def test_options_say_all(config: Config) -> None:
    options = _FORMATS["options"]
    assert options.read(options.write(config), "f") == config


def test_options_without_a_comma_in_a_name() -> None:
    config = Config(name="a", kernel=Path("/k"), cloud_init=CloudInit(Path("/a,b")))
    with pytest.raises(UsageError, match="because of the comma: rename it"):
        _FORMATS["options"].write(config)
    with pytest.raises(UsageError, match="a console for a program"):
        _FORMATS["options"].write(replace(config, cloud_init=None, console=ConsoleSpec("program")))
