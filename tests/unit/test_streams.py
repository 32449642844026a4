"""kvmxen's own messages, on a stderr of any kind."""

from __future__ import annotations

import os
import sys

import pytest

from kvmxen.streams import say


def test_a_line_in_a_file_has_no_carriage_return(capsys: pytest.CaptureFixture[str]) -> None:
    say("a word")
    assert capsys.readouterr().err == "kvmxen: a word\n"


def test_a_line_in_a_terminal_begins_at_its_left(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = os.openpty()
    with open(slave, "w") as terminal:  # noqa: PTH123
        monkeypatch.setattr(sys, "stderr", terminal)
        say("a word")
        assert os.read(master, 64) == b"\rkvmxen: a word\r\n"
    os.close(master)


def test_a_stderr_that_takes_nothing_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", closefd=False) as gone:
        monkeypatch.setattr(sys, "stderr", gone)
        say("a word")
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)
    os.close(writer)
