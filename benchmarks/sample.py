"""Repeated measurements: medians and spreads, and pairs taken in turn."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Sample:
    """The values of one quantity, in the order of measurement; at least one."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Sample:
        """A sample of `values`."""
        return cls(tuple(values))

    @property
    def median(self) -> float:
        """The median."""
        return median(self.values)

    def show(self, form: str) -> str:
        """The median and, in brackets, the minimum and maximum, each formatted by `form`."""
        shown = (format(v, form) for v in (self.median, min(self.values), max(self.values)))
        return "{} ({}-{})".format(*shown)


@dataclass(frozen=True)
class Pair:
    """Two quantities measured in turn, so that a disturbance affects both."""

    first: Sample
    second: Sample

    @property
    def ratio(self) -> Sample:
        """The first divided by the second, for each pair."""
        return Sample.of(
            [a / b for a, b in zip(self.first.values, self.second.values, strict=True)]
        )


def in_turn(
    first: Callable[[], float], second: Callable[[], float], pairs: int, spare: int = 0
) -> Pair:
    """Measure A B A B ..., after a first one of each that does not count.

    `spare` adds that many pairs; as many are then dropped: those during which other processes used
    the CPUs most.
    """
    first(), second()
    taken, disturbed = [], []
    for _ in range(pairs + spare):
        begin, busy = time.monotonic(), _others()
        taken.append((first(), second()))
        disturbed.append((_others() - busy) / (time.monotonic() - begin))
    quietest = sorted(range(len(taken)), key=disturbed.__getitem__)[:pairs]
    kept = [taken[index] for index in sorted(quietest)]
    return Pair(*map(Sample.of, zip(*kept, strict=True)))


def _others() -> float:
    """The seconds of user-mode CPU time of all processes but this one and its ended children."""
    user, nice = Path("/proc/stat").read_text().split(maxsplit=3)[1:3]
    ours = sum(
        resource.getrusage(who).ru_utime for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return (int(user) + int(nice)) / _TICKS - ours
