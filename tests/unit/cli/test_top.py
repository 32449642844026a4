"""kvmxen top: what it shows of each device, and that the table fits."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from kvmxen.cli import main, top
from kvmxen.cli.top import Figures, fitting, rows

BEFORE: Figures = {"vbd/51712": {"reads": 1, "errors": 0}, "vif/0": {"packets": 5}}
FIGURES: Figures = {"vbd/51712": {"reads": 11, "errors": 0}, "vif/0": {"packets": 5}}


def test_what_never_happened_is_not_shown() -> None:
    assert rows(FIGURES, BEFORE, 2.0) == [
        ("vbd/51712", "reads", 11, 5.0),
        ("vif/0", "packets", 5, 0.0),
    ]


def test_a_new_device_has_no_rate_yet() -> None:
    assert [row.rate for row in rows(FIGURES, {}, 1.0)] == [0.0, 0.0]


def test_what_happens_now_comes_first_and_the_order_stays() -> None:
    shown = rows({"a": {f"{n}": n + 1 for n in range(9)}}, {"a": {"3": 1, "8": 1}}, 1.0)
    assert [row.what for row in fitting(shown, 4)] == ["0", "1", "3", "8"]
    assert [row.what for row in fitting(shown, 0)] == ["3"]
    assert fitting(shown, 99) == shown


@pytest.mark.parametrize("height", [5, 12, 24, 100])
def test_it_fits_the_terminal(height: int) -> None:
    figures = {f"vbd/{n}": {f"count {k}": k + 1 for k in range(13)} for n in range(3)}
    screen = io.StringIO()
    console = Console(file=screen, width=80, height=height, force_terminal=True, no_color=True)
    console.print(top._table(rows(figures, figures, 1.0), console.height - 3))
    lines = screen.getvalue().splitlines()
    assert len(lines) < height
    assert len(lines) == min(height - 1, 40)
    assert ("more: --once shows all" in screen.getvalue()) == (height < 43)


@pytest.mark.parametrize(
    ("figures", "output"),
    [({}, "no devices\n"), ({"vif/0": {"packets": 5}}, f"vif/0:\n  {'packets':32} {5:>16}\n")],
)
def test_once(
    figures: Figures,
    output: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def ask(*_: Any) -> Figures:
        return figures

    monkeypatch.setattr("kvmxen.domain.control.client.ask", ask)
    assert main(["top", "web", "--once"]) == 0
    assert capsys.readouterr().out == output
