"""xl's configuration files as Configs, and back."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmxen import Config, ConsoleSpec, DiskSpec, KvmxenError, NetSpec, UsageError
from kvmxen.config.net import Rate
from kvmxen.config.readers.xl import READ, read, read_file, write
from kvmxen.config.readers.xl_json import as_json
from kvmxen.config.readers.xl_keys import DROPPED, REFUSED
from kvmxen.config.sizes import MIB

LEAST = 'name="web"\nkernel="/boot/vmlinuz"\n'


def config(more: str) -> Config:
    return read(LEAST + more, "web.cfg").config


def test_a_whole_file() -> None:
    found = read(
        """
        name = "web"
        type = "pv"
        uuid = "c7a5fdb2-cdaf-9455-926a-d65c16db1809"
        kernel = "/boot/vmlinuz"
        ramdisk = "/boot/initrd"
        root = "/dev/xvda1"
        extra = "console=hvc0 quiet"
        memory = 128
        maxmem = 0x100
        vcpus = 2
        maxvcpus = 4
        disk = [ '/dev/vg/web,raw,xvda,rw', 'format=qcow2, vdev=xvdb, access=ro, target=/a,b' ]
        vif = [ 'mac=00:16:3E:66:92:9c, bridge=xenbr1, script=vif-bridge, rate=10Mb/s', '' ]
        on_poweroff = "preserve"
        on_reboot = "destroy"
        on_crash = "restart"
        """.replace(", vdev", ",vdev")
        .replace(", access", ",access")
        .replace(", target", ",target"),
        "web.cfg",
    )
    assert (found.warnings, found.notes) == ((), ())
    assert found.config == Config(
        name="web",
        uuid=UUID("c7a5fdb2-cdaf-9455-926a-d65c16db1809"),
        kernel=Path("/boot/vmlinuz"),
        ramdisk=Path("/boot/initrd"),
        cmdline="root=/dev/xvda1 console=hvc0 quiet",
        memory=128 * MIB,
        max_memory=256 * MIB,
        vcpus=2,
        max_vcpus=4,
        disks=(
            DiskSpec(path=Path("/dev/vg/web"), target="xvda"),
            DiskSpec(path=Path("/a,b"), format="qcow2", target="xvdb", readonly=True),
        ),
        nets=(
            NetSpec("tap", bridge="xenbr1", mac="00:16:3e:66:92:9c", rate=Rate(62500, 50000)),
            NetSpec("user"),
        ),
        on_poweroff="preserve",
        on_reboot="destroy",
        on_crash="restart",
        console=ConsoleSpec("none"),
    )


@pytest.mark.parametrize(
    ("more", "field", "value"),
    [
        ("", "memory", 512 * MIB),
        ("maxmem=64", "memory", 64 * MIB),
        ("memory=0100", "memory", 64 * MIB),
        ("memory='64'", "memory", 64 * MIB),
        ("extra='x'", "cmdline", "x"),
        ("vcpus=0", "vcpus", 1),
        ("builder='generic'", "kernel", Path("/boot/vmlinuz")),
        ("bootloader='pygrub'", "kernel", Path("/boot/vmlinuz")),
        (
            "disk=['phy:/dev/vg/x,xvda,w']",
            "disks",
            (DiskSpec(path=Path("/dev/vg/x"), target="xvda"),),
        ),
        (
            "disk=['/x,,xvda,,backendtype=qdisk']",
            "disks",
            (DiskSpec(path=Path("/x"), target="xvda"),),
        ),
        ("vif=['vifname=web0']", "nets", (NetSpec("tap", "web0"),)),
        ("pci=[]\ncpus='all'\nnomigrate=0\ntsc_mode='default'", "name", "web"),
    ],
)
def test_settings(more: str, field: str, value: object) -> None:
    assert getattr(config(more), field) == value


def test_a_disks_own_system() -> None:
    text = "name='web'\nbootloader='/usr/bin/pygrub'\ndisk=['/x,raw,xvda,rw']"
    found = read(text, "f")
    assert found.config.kernel is None
    assert found.config.bootloader == "pygrub"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("kernel='k'", "f: give the domain a name"),
        ("name='a'", "f: give a kernel, or a bootloader and a disk"),
        ("name='a'\nbootloader='pygrub'", "f:2: bootloader: there is no disk to boot from"),
        ("name='a'\nbootloader='eliloader'\ndisk=[]", "eliloader is not known: give pvgrub"),
        (LEAST + "type='hvm'", "f:3: type: a guest of type hvm is not run: give pv"),
        (LEAST + "builder='hvm'", "f:3: builder: a guest of type hvm"),
        (
            LEAST + "on_crash='rename-restart'",
            "kvmxen does not do 'rename-restart'; give destroy or",
        ),
        (LEAST + "on_crash='laugh'", "f:3: on_crash: no such action: 'laugh'; give destroy or"),
        (LEAST + "pci=['01:00.0']", "f:3: kvmxen does not do pci: remove it"),
        (LEAST + "cpus='0-3'", "f:3: kvmxen does not do cpus: remove it"),
        (LEAST + "vif=['ip=10.0.0.1']", "f:3: vif: vif 'ip=10.0.0.1': kvmxen does not do ip="),
        (LEAST + "vif=['script=vif-nat']", "kvmxen does not do script=vif-nat"),
        (LEAST + "vif=['mac=1']", "f:3: vif: '1' is not a network card's address"),
        (LEAST + "disk=['/x']", "f:3: disk: disk '/x' has no device in the guest: add xvda"),
        (LEAST + "disk='/x,raw,xvda'", "f:3: disk: it is a list: write disk = [ ... ]"),
        (LEAST + "disk=[['x']]", "f:3: disk: a list of texts is expected"),
        (LEAST + "disk=['/x,raw,xvda','/y,raw,xvda']", "two disks are xvda"),
        (
            LEAST + "disk=['/x,raw,xvda,script=block-iscsi']",
            "f:3: disk: kvmxen does not do script=block-iscsi of a disk",
        ),
        (LEAST + "disk=['script=s,vdev=xvda,target=/x']", "kvmxen does not do script=s"),
        (LEAST + "disk=['/x,raw,xvda,w,backend=dom1']", "kvmxen does not do backend=dom1"),
        (LEAST + "on_crash=''", "f:3: on_crash: no such action"),
        (LEAST + "uuid='c7a5fdb2cdaf9455926ad65c16db1809'", "is not a UUID"),
        (LEAST + "memory=[1]", "f:3: memory: one value is expected, not a list"),
        (LEAST + "memory='a lot'", "f:3: memory: 'a lot' is not a number"),
        (LEAST + "memory=08", "'08' is not a number"),
        (
            LEAST + "memory=99999999999999999999",
            "f:3: memory: 99999999999999999999 is out of range",
        ),
        (LEAST + "memory=64\nmaxmem=32", "f: maxmem 32 MiB is less than memory"),
        (LEAST + "vcpus=4\nmaxvcpus=2", "f: maxvcpus must be 4, the number of vcpus"),
        (LEAST + "uuid='zz'", "f:3: uuid: 'zz' is not a UUID"),
    ],
)
def test_what_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(text, "f")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_person_should_know() -> None:
    found = read(LEAST + "acpi=1\nmemroy=5\nzzz=1\ncmdline='c'\nroot='r'\nvif=['model=e1000']", "f")
    assert found.warnings == (
        "f:4: unknown key memroy, ignored; is memory meant?",
        "f:5: unknown key zzz, ignored",
        "f: cmdline takes the place of root and extra",
    )
    assert found.notes == (
        "f:3: acpi means nothing to a PV guest here",
        "f: vif: a PV guest's card has no model",
    )
    assert found.config.cmdline == "c"


def test_a_key_is_in_one_table() -> None:
    assert not READ & REFUSED.keys()
    assert not READ & DROPPED
    assert not DROPPED & REFUSED.keys()


def test_the_page_has_the_keys() -> None:
    page = (Path(__file__).parents[4] / "docs" / "xl.md").read_text()
    _, read_rows, refused_rows = page.split("|---|---|\n")
    keys = re.findall(r"^\| (.*?) \|", read_rows, re.M)
    # The last row that split() left is the header of the next table.
    assert set(re.findall(r"`(\w+)`", " ".join(keys))) == READ
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*)\|$", refused_rows, re.M))
    assert {key: {*re.findall(r"`(.*?)`", cell)} for key, cell in rows.items()} == {
        key: harmless - {"", "0"} for key, harmless in REFUSED.items()
    }
    dropped = page.partition("`-v` names them:\n\n")[2].partition("\n")[0]
    assert set(re.findall(r"`(\w+)`", dropped)) == DROPPED


def test_lines_that_follow_the_file(tmp_path: Path) -> None:
    path = tmp_path / "web.cfg"
    path.write_text(LEAST + "memory=64")
    found = read_file(path, ["memory=128", "vcpus=2;maxvcpus=3"]).config
    assert (found.memory, found.vcpus, found.max_vcpus) == (128 * MIB, 2, 3)
    assert read_file(path, ["cmdline='a'", "cmdline+='b'"]).config.cmdline == "ab"
    for argument, sentence in (
        ("memory=64*2", "the argument 'memory=64*2': the end of the line is expected"),
        ("memory='a lot'", "the argument \"memory='a lot'\": memory: 'a lot' is not a number"),
        ("pci=['1']", "kvmxen does not do pci: remove it"),
    ):
        with pytest.raises(UsageError, match=re.escape(sentence)):
            read_file(path, [argument])
    (warning,) = read_file(path, ["memroy=1"]).warnings
    assert warning.startswith("the argument 'memroy=1': unknown key memroy")
    with pytest.raises(KvmxenError, match=r"cannot read .*absent: No such file"):
        read_file(tmp_path / "absent")


WORDS = st.sampled_from(
    [
        *(
            [
                "raw",
                "qcow2",
                "xvda",
                "xvdb:cdrom",
                "r",
                "rw",
                "vdev=",
                "target=",
                "format=",
                "access=",
                "file:",
                "tap:aio:",
                "/x",
                "ioemu:",
            ]
        ),
        *(
            [
                "mac=",
                "bridge=",
                "rate=",
                "10Mb/s",
                "@",
                "vifname=",
                "ip=",
                "00:16:3e:00:00:01",
                "script=",
                "backend=",
            ]
        ),
        *("0 1 64 0x 08 -1 9" + "9" * 30).split(),
        *(["pv", "hvm", "pygrub", "restart", "destroy", "\\udcff", "é", "\t", ",", ",", ",", "="]),
    ]
)
TEXTS = (st.lists(WORDS, max_size=6).map("".join) | st.text(max_size=12)).map(
    lambda text: "'" + re.sub(r"[\\'\n]", "", text) + "'"
)
VALUES = (
    TEXTS
    | st.integers(0, 1 << 40).map(str)
    | st.lists(TEXTS, max_size=3).map(lambda items: f"[{','.join(items)}]")
)
SETTINGS = st.tuples(st.sampled_from(sorted(READ | REFUSED.keys() | {"memroy", "acpi"})), VALUES)


@given(st.lists(SETTINGS, max_size=6))
def test_any_settings_are_read_or_refused(settings: list[tuple[str, str]]) -> None:
    with suppress(KvmxenError):
        found = read(LEAST + "".join(f"{key}={value}\n" for key, value in settings), "f")
        assert isinstance(found.config, Config)
        as_json(found.config)


NETS = st.sampled_from(
    [
        NetSpec("user"),
        NetSpec("user", mac="00:16:3e:00:00:01"),
        NetSpec("tap", bridge="br0", rate=Rate(62500, 50000)),
        NetSpec("tap", "web0", "br0"),
    ]
)
DISKS = st.sampled_from(
    [
        DiskSpec(path=Path("/a b,c"), target="xvda", readonly=True),
        DiskSpec(path=Path("/q"), format="qcow2", target="xvdb", discard=False),
        DiskSpec(path=Path("/c"), target="xvdc", cdrom=True, readonly=True),
    ]
)


@given(
    st.text(
        st.characters(min_codepoint=32, max_codepoint=0x17F, categories=["L", "N", "P", "S", "Zs"]),
        max_size=40,
    ),
    st.lists(NETS, max_size=3),
    st.lists(DISKS, max_size=3, unique=True),
    st.integers(32, 64),
)
def test_what_is_written_is_read(
    cmdline: str, nets: list[NetSpec], disks: list[DiskSpec], memory: int
) -> None:
    config = Config(
        name="web",
        uuid=UUID(int=5),
        kernel=Path("/k"),
        cmdline=cmdline if cmdline.isprintable() else "",
        memory=memory * MIB,
        nets=tuple(nets),
        disks=tuple(disks),
        console=ConsoleSpec("none"),
    )
    assert read(write(config), "f").config == config


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"shell": True}, "xl's files have no shell"),
        ({"kernel": None}, "no demo guest"),
        ({"memory": 64 * MIB + 4096, "max_memory": 0}, "is not a whole number"),
        ({"disks": (DiskSpec(path=Path("/x"), cache="none"),)}, "asked of the disk /x"),
        ({"nets": (NetSpec("user", host_loopback=False),)}, "of a network interface"),
        ({"nets": (NetSpec("tap"),)}, "of a network interface"),
    ],
)
def test_what_cannot_be_written(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        write(replace(Config(name="a", kernel=Path("/k")), **change))  # type: ignore[arg-type]
