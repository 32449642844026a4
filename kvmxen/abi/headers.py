"""The numbers of C headers, for Python: each stands in its header alone."""

from __future__ import annotations

from pathlib import Path


def constants(header: Path) -> dict[str, int]:
    """Name to value of each "#define NAME number" of `header`, which has no other macros.

    By hand, as each start reads three headers: a regular expression takes longer to compile.
    """
    lines = [line.split() for line in header.read_text().splitlines() if line.startswith("#define")]
    return {words[1]: int(words[2].strip("()"), 0) for words in lines}
