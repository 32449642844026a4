"""Event loops: the warning about them, and how long an upcall is withheld."""

from __future__ import annotations

import pytest

from kvmxen.xen.eventloop import FIRST_NS, MOST_NS, EventLoops

HERE, THERE = (0x1000, 0x2000), (0x1000, 0x2008)


def test_each_is_left_alone_as_on_xen_and_told_of_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    loops = EventLoops(breaks=False)
    assert [loops.met(vcpu, HERE) for vcpu in (1, 0, 1)] == [0, 0, 0]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("kvmxen: vCPU 1 sends an event to itself")


def test_the_upcall_is_withheld_for_longer_at_one_place() -> None:
    loops = EventLoops(breaks=True)
    assert [loops.met(0, HERE) for _ in range(3)] == [FIRST_NS, 2 * FIRST_NS, 4 * FIRST_NS]
    assert loops.met(1, HERE) == FIRST_NS
    assert loops.met(0, THERE) == FIRST_NS
    assert max(loops.met(0, THERE) for _ in range(40)) == MOST_NS
