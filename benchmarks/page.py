"""The page with the tables: each section lies between two comments with its name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

PAGE = Path("docs/performance.md")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are right-aligned."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def replace(text: str, section: str, content: str) -> str:
    """`text` with the section's content replaced by `content`; raises ValueError if it has no
    such section."""
    begin, end = f"<!-- {section} -->\n", f"<!-- end of {section} -->"
    pattern = re.compile(f"({re.escape(begin)}).*?({re.escape(end)})", re.DOTALL)
    changed, count = pattern.subn(lambda match: f"{match[1]}\n{content}\n\n{match[2]}", text)
    if count != 1:
        raise ValueError(f"{PAGE} has {count} sections {section}")
    return changed


def section(text: str, name: str) -> str:
    """The content of the section `name` of `text`; raises ValueError if there is none."""
    found = re.search(f"<!-- {re.escape(name)} -->\n(.*?)<!-- end of ", text, re.DOTALL)
    if found is None:
        raise ValueError(f"{PAGE} has no section {name}")
    return found[1].strip()
