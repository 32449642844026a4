"""Reads the numbers of C headers, so that each is defined only in its header."""

from __future__ import annotations

from pathlib import Path


def constants(header: Path) -> dict[str, int]:
    """The names and values of each "#define NAME number" in `header`, which has no other macros.

    Each start reads three headers; a regular expression would take longer to compile.
    """
    lines = [line.split() for line in header.read_text().splitlines() if line.startswith("#define")]
    return {words[1]: int(words[2].strip("()"), 0) for words in lines}
