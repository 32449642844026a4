"""kvmxen-xl's commands, and the page that lists them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from kvmxen import __main__
from kvmxen.cli.xl import main
from kvmxen.front.xl.commands import COMMANDS, MISSING

PAGE = (Path(__file__).parents[3] / "docs" / "xl.md").read_text()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: xl {name} ")


def test_the_page_has_the_commands() -> None:
    (listed,) = re.findall(r"^It has (.*)\.$", PAGE, re.M)
    assert re.findall(r"`([\w-]+)`", listed) == sorted(COMMANDS)
    assert not MISSING & COMMANDS.keys()


@pytest.mark.parametrize(("name", "usage"), [("xl", "xl"), ("kvmxen-xl", "xl"), ("k", "kvmxen")])
def test_the_name_of_the_program_decides(
    name: str, usage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"/usr/bin/{name}", "--help"])
    assert __main__.main() == 0
    assert capsys.readouterr().out.startswith(f"Usage: {usage} ")
