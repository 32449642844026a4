"""The build uses the environment's compiler and linker."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvmxen.errors import KvmxenError
from kvmxen.guests._build import compile_guest, tool


def test_a_command_may_have_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "ccache gcc-12 '-DTWO WORDS'")
    assert tool("CC", "gcc") == ["ccache", "gcc-12", "-DTWO WORDS"]
    monkeypatch.setenv("CC", "")
    assert tool("CC", "gcc") == ["gcc"]


@pytest.mark.parametrize(
    ("compiler", "complaint"),
    [("/nowhere/cc", "/nowhere/cc is not installed"), ("false", "^false .* failed")],
)
def test_what_it_names_is_what_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compiler: str, complaint: str
) -> None:
    monkeypatch.setenv("CC", compiler)
    with pytest.raises(KvmxenError, match=complaint):
        compile_guest([], tmp_path / "guest.elf")
