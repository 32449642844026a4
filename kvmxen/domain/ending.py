"""How a domain's run ended."""

from __future__ import annotations

from dataclasses import dataclass

from kvmxen.pv.machine import End


@dataclass(frozen=True)
class Ending:
    """Why and when a run ended.

    `reason` describes a crash in a few words, `report` in several lines; both are empty for
    every other end. `at` is the time, in seconds, from time.time().
    """

    end: End
    at: float
    reason: str = ""
    report: str = ""
