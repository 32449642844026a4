"""Definitions on disk: none is lost, and a thousand are listed at once."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from kvmxen.config import Config, ConsoleSpec
from kvmxen.config.readers.libvirt import DomainXml
from kvmxen.errors import UsageError
from kvmxen.front.libvirt.definitions import Definitions
from kvmxen.front.libvirt.host import Host
from kvmxen.front.libvirt.storage import Pools


def domain(number: int) -> DomainXml:
    console = ConsoleSpec("pty")
    uuid = UUID(int=number + 1)
    return DomainXml(Config(name=f"d{number}", kernel=Path("/k"), uuid=uuid, console=console))


@pytest.mark.parametrize("title", ["\x01", "\udcff", "a\0b"])
def test_a_text_that_xml_cannot_have_is_refused(tmp_path: Path, title: str) -> None:
    definitions = Definitions(tmp_path)
    definitions.save(domain(1))
    with pytest.raises(UsageError):
        definitions.save(replace(domain(1), title=title))
    assert [one.xml for one in definitions] == [domain(1)]


def test_files_that_are_no_definitions_are_left_alone(tmp_path: Path) -> None:
    definitions = Definitions(tmp_path)
    definitions.save(domain(1))
    (tmp_path / "d2.xml").write_text((tmp_path / "d1.xml").read_text())
    (tmp_path / "d3.xml").write_bytes(b"\xff")
    (tmp_path / "d4.xml").symlink_to("nowhere")
    assert [one.name for one in definitions] == ["d1"]


def test_a_thousand_definitions_are_listed_at_once(tmp_path: Path) -> None:
    definitions = Definitions(tmp_path / "domains")
    for number in range(1000):
        definitions.save(domain(number))
    host = Host(Definitions(tmp_path / "domains"), Pools(tmp_path / "pools"), tmp_path / "run")
    assert len(host.guests()) == 1000
    began = time.monotonic()
    assert len(host.guests()) == 1000
    assert time.monotonic() - began < 1
