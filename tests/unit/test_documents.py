"""The documents' links lead somewhere, and the README's tables have the options of --help."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from kvmxen.cli.boot import boot
from kvmxen.cli.status import STATUSES, XENSTORE_STATUSES

ROOT = Path(__file__).parents[2]
PAGES = sorted(path.relative_to(ROOT) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
README = (ROOT / "README.md").read_text()


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub generates them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    text = (ROOT / page).read_text()
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    for link in links:
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def table(heading: str) -> list[list[str]]:
    """The cells of each line of the README's table whose first line begins with `heading`."""
    text = README.partition(f"\n| {heading}")[2].partition("\n\n")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if "---" not in line
    ]


def test_the_readme_has_the_options_of_boot() -> None:
    described = {}
    for cells in table("option"):
        (option,) = re.findall(r"`(--[a-z-]+)", cells[0])
        described[option] = cells[1].strip("` ")
    options = [param for param in boot.params if isinstance(param, click.Option)]
    assert list(described) == sorted(described, key=[o.opts[0] for o in options].index)
    for option in options:
        said = re.search(r"\[default: (.*)\]", option.help or "")
        default = str(option.default) if option.show_default else said[1] if said else ""
        assert described.pop(option.opts[0]) == default, option.opts[0]
    assert described == {}


@pytest.mark.parametrize(
    ("heading", "statuses"),
    [
        ("exit status of `kvmxen boot`", STATUSES),
        ("exit status of `kvmxen xenstore`", XENSTORE_STATUSES),
    ],
)
def test_the_readme_has_the_exit_statuses(heading: str, statuses: str) -> None:
    said = {int(number): text for number, text in re.findall(r"(\d+)  (.*)", statuses)}
    written = {int(number): text for number, text in table(heading)}
    assert written.keys() == said.keys()
    for number, text in said.items():
        assert written[number].replace("`", "").startswith(text)
