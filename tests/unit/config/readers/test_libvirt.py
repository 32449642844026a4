"""libvirt's domain XML: read, refused by path, written, and hostile."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmxen.config import Config, ConsoleSpec, DiskSpec
from kvmxen.config.net import NetSpec
from kvmxen.config.readers.libvirt import DomainXml, read, read_device, write
from kvmxen.config.readers.xml_node import MAX_SIZE, UnsupportedElement, XmlError
from kvmxen.errors import UsageError
from tests.packages import Suite, Unavailable

MIB = 1 << 20
# As virt-install --import --paravirt writes it.
INSTALLED = """
<domain type="xen">
  <name>a</name>
  <uuid>599dad6b-be70-4f09-baf8-eb4cf5489557</uuid>
  <memory>262144</memory>
  <currentMemory>131072</currentMemory>
  <vcpu current="1">2</vcpu>
  <os>
    <type arch="x86_64" machine="xenpv">xen</type>
    <kernel>/boot/vmlinuz</kernel>
    <initrd>/boot/i</initrd>
    <cmdline>console=hvc0</cmdline>
  </os>
  <devices>
    <disk type="file" device="disk">
      <driver name="qemu" type="qcow2"/>
      <source file="/images/x.qcow2"/>
      <target dev="xvda" bus="xen"/>
    </disk>
    <controller type="usb" model="ich9-ehci1"/>
    <controller type="usb" model="ich9-uhci1"><master startport="0"/></controller>
    <interface type="user"><mac address="00:16:3e:c7:5c:a5"/></interface>
    <console type="pty"/>
  </devices>
</domain>
"""


def domain(inside: str = "", devices: str = "", attributes: str = "type='xen'") -> str:
    return (
        f"<domain {attributes}><name>a</name><memory unit='MiB'>64</memory>{inside}"
        f"<devices>{devices}</devices></domain>"
    )


def test_what_virt_install_writes_is_read() -> None:
    assert read(INSTALLED) == DomainXml(
        Config(
            name="a",
            uuid=UUID("599dad6b-be70-4f09-baf8-eb4cf5489557"),
            kernel=Path("/boot/vmlinuz"),
            ramdisk=Path("/boot/i"),
            cmdline="console=hvc0",
            memory=128 * MIB,
            max_memory=256 * MIB,
            vcpus=1,
            max_vcpus=2,
            disks=(DiskSpec(path=Path("/images/x.qcow2"), format="qcow2", target="xvda"),),
            nets=(NetSpec("user", mac="00:16:3e:c7:5c:a5"),),
            console=ConsoleSpec("pty"),
        )
    )


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (domain(attributes="type='kvm'"), "/domain/@type (kvm)"),
        (domain("<cputune/>"), "/domain/cputune"),
        (domain("<os><type>hvm</type></os>"), "/domain/os/type (hvm)"),
        (domain("<os><type machine='xenpvh'>xen</type></os>"), "/domain/os/type/@machine (xenpvh)"),
        (domain("<on_crash>coredump-destroy</on_crash>"), "/domain/on_crash"),
        (domain("<clock offset='localtime'/>"), "/domain/clock/@offset (localtime)"),
        (domain("<features><hyperv/></features>"), "/domain/features/hyperv"),
        (domain(devices="<hostdev/>"), "/domain/devices/hostdev"),
        (domain(devices="<graphics type='vnc'/>"), "/domain/devices/graphics"),
        (domain(devices="<disk type='network'/>"), "/domain/devices/disk/@type (network)"),
        (
            domain(
                devices="<disk><source file='/a'/><target dev='xvda'/><shareable/></disk>",
            ),
            "/domain/devices/disk/shareable",
        ),
        (
            domain(devices="<disk><source file='/a'/><target dev='vda' bus='virtio'/></disk>"),
            "/domain/devices/disk/target/@bus (virtio)",
        ),
        (
            domain(devices="<interface type='network'><source network='default'/></interface>"),
            "/domain/devices/interface/@type (network)",
        ),
        (
            domain(devices="<interface type='user'><bandwidth/></interface>"),
            "/domain/devices/interface/bandwidth",
        ),
        (domain(devices="<console type='tcp'/>"), "/domain/devices/console/@type (tcp)"),
    ],
)
def test_what_is_not_done_is_refused_by_its_path(text: str, path: str) -> None:
    with pytest.raises(UnsupportedElement) as refused:
        read(text)
    assert str(refused.value).startswith(f"kvmxen does not do {path}")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not well-formed"),
        ("<domain", "not well-formed"),
        ("<pool/>", "describes a pool"),
        ("<!DOCTYPE d [<!ENTITY a 'b'>]><domain>&a;</domain>", "DOCTYPE"),
        ("<domain/>", "no <memory>"),
        ("<a>" * 100 + "</a>" * 100, "nested more than"),
        ("<a>" * 100_000 + "</a>" * 100_000, "nested more than"),
        (" " * (MAX_SIZE + 1), "longer than"),
        ("\udcff", "not well-formed"),
        (domain("<name>b</name>"), "more than one <name>"),
        (domain("<uuid>1</uuid>"), "not a UUID"),
        (domain("<vcpu>x</vcpu>"), "not a number of vCPUs"),
        (domain("<currentMemory>-1</currentMemory>"), "not an amount of memory"),
        (domain("<os><kernel>vmlinuz</kernel></os>"), "not an absolute path"),
        (
            domain(devices="<disk><source file='a'/><target dev='xvda'/></disk>"),
            "not an absolute path",
        ),
        (domain(devices="<disk/>"), "needs a <source>"),
    ],
)
def test_what_is_wrong_is_refused(text: str, why: str) -> None:
    with pytest.raises(XmlError, match=why):
        read(text)


WRITTEN = [
    DomainXml(Config(name="demo", uuid=UUID(int=1), console=ConsoleSpec("pty"))),
    replace(read(INSTALLED), title="a <title>", description="two\nlines"),
    replace(read(INSTALLED), metadata='<metadata><x:a xmlns:x="http://x/">b</x:a></metadata>'),
    DomainXml(
        Config(
            name="full",
            uuid=UUID(int=2),
            kernel=Path("/k & <k>"),
            disks=(
                DiskSpec(path=Path("/a"), readonly=True, cdrom=True),
                DiskSpec(path=Path("/b"), cache="none", discard=False, format="vhd"),
            ),
            nets=(
                NetSpec("tap", name="tap0", mac="00:16:3e:00:00:01"),
                NetSpec("tap", bridge="br0"),
            ),
            console=ConsoleSpec("file", Path("/log")),
            on_poweroff="preserve",
            on_reboot="destroy",
            on_crash="restart",
        )
    ),
]


@pytest.mark.parametrize("xml", WRITTEN, ids=lambda xml: xml.config.name)
def test_what_is_written_is_read_again(xml: DomainXml) -> None:
    again = read(write(xml, id=3, console="/dev/pts/1"))
    if "x:a" in xml.metadata:
        assert "http://x/" in again.metadata
        again = replace(again, metadata=xml.metadata)
    assert again == xml


@pytest.fixture(scope="module")
def schema() -> Any:
    """libvirt's own schema of a domain's XML."""
    etree = pytest.importorskip("lxml.etree", reason="lxml is missing")
    try:
        path = Suite("bookworm").package("libvirt0", "usr/share/libvirt/schemas/*.rng")
    except Unavailable as missing:
        pytest.skip(str(missing))
    return etree.RelaxNG(etree.parse(path.parent / "domain.rng"))


@pytest.mark.parametrize("number", [-1, 3], ids=["defined", "running"])
@pytest.mark.parametrize("xml", WRITTEN, ids=lambda xml: xml.config.name)
def test_what_is_written_is_valid_for_libvirt(schema: Any, xml: DomainXml, number: int) -> None:
    from lxml import etree

    text = write(xml, id=number, console="/dev/pts/1" if number > 0 else "")
    assert schema.validate(etree.fromstring(text)), schema.error_log


@pytest.mark.parametrize("source", ["", "<source/>", "<source startupPolicy='optional'/>"])
def test_a_drive_without_a_medium_is_left_out(source: str) -> None:
    drive = f"<disk type='file' device='cdrom'>{source}<target dev='xvdb' bus='xen'/></disk>"
    assert read(domain(devices=drive)).config.disks == ()
    with pytest.raises(XmlError, match="needs a"):
        read_device(drive)


def test_a_device_is_read_by_itself() -> None:
    disk = "<disk type='block'><source dev='/dev/x'/><target dev='xvdb'/><readonly/></disk>"
    assert read_device(disk) == DiskSpec(path=Path("/dev/x"), target="xvdb", readonly=True)
    with pytest.raises(UnsupportedElement, match="/hostdev"):
        read_device("<hostdev/>")


PIECES = st.sampled_from(
    [*"<>/='&;x1 ", "<domain>", "</domain>", "<memory>", "<vcpu>", "<os>", "<devices>", "<disk>",
     "<source file='/a'/>", "<target dev='xvda'/>", "</disk>", "<name>", "</name>", "\0", "²",
     "<interface type='user'>", "<mac address='x'/>", "<!--", "-->", "<![CDATA["]
)  # fmt: skip


@given(st.lists(PIECES, max_size=30).map("".join))
def test_hostile_text_raises_nothing_else(text: str) -> None:
    for inside in (text, domain(text), domain(devices=text)):
        for function in (read, read_device):
            with suppress(UsageError):
                function(inside)
