"""Repeated measurements: medians and spreads, and pairs taken in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Sample:
    """The values of one quantity, in the order they were taken; at least one."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Sample:
        """A sample of `values`."""
        return cls(tuple(values))

    @property
    def median(self) -> float:
        """The value in the middle."""
        return median(self.values)

    def show(self, form: str) -> str:
        """The median and, in brackets, the least and the greatest, each by the format `form`."""
        shown = (format(v, form) for v in (self.median, min(self.values), max(self.values)))
        return "{} ({}-{})".format(*shown)


@dataclass(frozen=True)
class Pair:
    """Two quantities that were measured in turn, so that what disturbs one disturbs the other."""

    first: Sample
    second: Sample

    @property
    def ratio(self) -> Sample:
        """The first by the second, of each pair."""
        return Sample.of(
            [a / b for a, b in zip(self.first.values, self.second.values, strict=True)]
        )


def in_turn(first: Callable[[], float], second: Callable[[], float], pairs: int) -> Pair:
    """Measure A B A B ..., after one of each that does not count."""
    taken = [(first(), second()) for _ in range(pairs + 1)][1:]
    return Pair(*map(Sample.of, zip(*taken, strict=True)))
