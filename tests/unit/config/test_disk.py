"""--disk: our notation and xl's, and the mistakes in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmxen.config import Config
from kvmxen.config.disk import DiskSpec, _name, device_number, with_targets
from kvmxen.errors import UsageError


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("a.img", {"path": "a.img"}),
        ("a.img,ro", {"path": "a.img", "readonly": True}),
        ("a.img,ro,target=xvdb", {"path": "a.img", "readonly": True, "target": "xvdb"}),
        ("a.img,format=qcow2,cache=none", {"path": "a.img", "format": "qcow2", "cache": "none"}),
        ("a.img,no-discard", {"path": "a.img", "discard": False}),
        ("a.img,discard,sector-size=4096", {"path": "a.img", "sector_size": 4096}),
        ("a.img,persistent", {"path": "a.img", "persistent": True}),
        ("a.img,persistent=0,discard=0", {"path": "a.img", "discard": False}),
        ("a.img,qcow2,backing=b", {"path": "a.img", "format": "qcow2", "backing": (Path("b"),)}),
        (
            "a,format=qcow2,backing=b,backing=c,backing=./allow,key=k",
            {
                "path": "a",
                "format": "qcow2",
                "backing": (Path("b"), Path("c"), Path("allow")),
                "key": Path("k"),
            },
        ),
        ("a,backing=allow,format=qcow2", {"path": "a", "format": "qcow2", "follows_backing": True}),
        ("a.vhd,vhd,xvda,w", {"path": "a.vhd", "format": "vhd", "target": "xvda"}),
        ("a,vmdk", {"path": "a", "format": "vmdk"}),
        ("a,format=vhdx", {"path": "a", "format": "vhdx"}),
        # From xl-disk-configuration(5).
        ("/dev/vg/guest-volume,,hda", {"path": "/dev/vg/guest-volume", "target": "hda"}),
        ("/dev/vg/guest,raw,hda,rw", {"path": "/dev/vg/guest", "target": "hda"}),
        (
            "format=raw, vdev=hda, access=rw, target=/dev/vg/guest-volume".replace(" ", ""),
            {"path": "/dev/vg/guest-volume", "target": "hda"},
        ),
        (
            "/root/image.iso,,hdc,cdrom",
            {"path": "/root/image.iso", "target": "hdc", "cdrom": True, "readonly": True},
        ),
        (
            "vdev=hdc,access=r,devtype=cdrom,target=/a,b",
            {"path": "/a,b", "target": "hdc", "cdrom": True, "readonly": True},
        ),
        ("phy:/dev/loop0,xvda,w", {"path": "/dev/loop0", "target": "xvda"}),
        ("file:/srv/a.img,xvda1,r", {"path": "/srv/a.img", "target": "xvda1", "readonly": True}),
    ],
)
def test_ways_to_say_it(text: str, fields: dict[str, Any]) -> None:
    assert DiskSpec.parse(text) == DiskSpec(**fields | {"path": Path(fields["path"])})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "names no file"),
        (",ro", "names no file"),
        ("ro=1", "what is|names no file|unknown key|no access"),
        ("a,format=vdi", "no format 'vdi': give raw or qcow2 or vhd or vmdk or vhdx"),
        ("a,backing=b", "backing= is for format=qcow2, and a is raw"),
        ("a,vhd,key=b", "key= is for format=qcow2, and a is vhd"),
        ("a,backing=allow", "backing= is for format=qcow2, and a is raw"),
        ("a,qcow2,backing=", "a file is missing: give"),
        ("a,qcow2,backing=allow,backing=b", "or backing=allow"),
        ("a,qcow2,backing=b,backing=allow", "or backing=allow"),
        ("a,qcow2,key=", "a file is missing"),
        ("a,qcow", "no format 'qcow'"),
        ("a,cache=maybe", "no cache"),
        ("a,sector-size=100", "no sector-size"),
        ("a,persistent=maybe", "no persistent 'maybe'"),
        ("a,target=nvme0", "cannot name a disk"),
        ("a,target=xvda256", "beyond the last possible disk"),
        ("a,script=b", "unknown key 'script'"),
        ("a,fast", "what is 'fast'"),
    ],
)
def test_what_is_wrong(text: str, complaint: str) -> None:
    if text == "ro=1":
        # A file may have that name.
        assert DiskSpec.parse(text).path == Path("ro=1")
        return
    with pytest.raises(UsageError, match=complaint):
        DiskSpec.parse(text)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("xvda", 51712),
        ("xvdb", 51728),
        ("xvda1", 51713),
        ("xvdp", 51952),
        ("xvdq", 1 << 28 | 16 << 8),
        ("xvdaa", 1 << 28 | 26 << 8),
        ("xvda16", 1 << 28 | 16),
        ("d0", 51712),
        ("d1p2", 51730),
        ("hda", 768),
        ("hdb1", 833),
        ("hdc", 5632),
        ("sda", 2048),
        ("sdb3", 2067),
    ],
)
def test_numbers(name: str, number: int) -> None:
    assert device_number(name) == number


@given(st.integers(0, (1 << 20) - 1))
def test_every_disk_has_a_name(disk: int) -> None:
    number = device_number(_name(disk))
    assert number == (202 << 8 | disk << 4 if disk < 16 else 1 << 28 | disk << 8)


@pytest.mark.parametrize("size", [0, 1, 513, 8192, -512])
def test_sector_sizes(size: int) -> None:
    with pytest.raises(UsageError, match=r"sector-size .* is not supported"):
        DiskSpec(path=Path("a"), sector_size=size)


def test_targets_that_are_free() -> None:
    disks = [DiskSpec.parse(text) for text in ("a", "b,target=xvda", "c", "d,target=hda")]
    assert [disk.target for disk in with_targets(disks)] == ["xvdb", "xvda", "xvdc", "hda"]
    assert with_targets(disks[:1], [51712, 51728])[0].target == "xvdc"
    with pytest.raises(UsageError, match="two disks are xvda"):
        Config(name="a", kernel=Path("vmlinuz"), disks=(disks[1], disks[1]))
    assert Config(name="a", kernel=Path("vmlinuz"), disks=(disks[0],)).disks[0].target == "xvda"
