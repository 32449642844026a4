"""Event loops: a guest whose every upcall ends in the next one, with no instruction between them.

Xen promises such a guest no progress, and so do we. PREEMPT_RT kernels of Linux 6.1, 6.12 and later
do it: xen_evtchn_do_upcall() leaves an RCU read section, which sends the next event.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable

from kvmxen.streams import say

# How long an upcall is withheld, in ns, at first and at most.
FIRST_NS = 50_000
MOST_NS = 10_000_000


class EventLoops:
    """The event loops of one domain. If `breaks`, their upcalls are withheld for a while."""

    def __init__(self, breaks: bool) -> None:
        self._breaks = breaks
        self._lock = threading.Lock()
        self._told = False
        self._last: dict[int, tuple[Hashable, int]] = {}

    def met(self, vcpu: int, place: Hashable) -> int:
        """For how many ns to withhold the upcall of a vCPU that returns to `place` in such a loop.

        0 means to deliver it at once, as Xen does. The time doubles with each loop at one place,
        so that the guest makes progress on a slow host too.
        """
        with self._lock:
            told, self._told = self._told, True
        if not told:
            self._tell(vcpu)
        if not self._breaks:
            return 0
        before, delay = self._last.get(vcpu, (None, 0))
        delay = min(2 * delay, MOST_NS) if place == before else FIRST_NS
        self._last[vcpu] = place, delay
        return delay

    def _tell(self, vcpu: int) -> None:
        advice = "--break-event-loops lets it continue"
        if not self._breaks:
            advice = "it makes no progress, nor would it on Xen; use --break-event-loops"
        say(
            f"vCPU {vcpu} sends an event to itself at the end of each upcall, as Linux's "
            f"PREEMPT_RT kernels do: {advice}"
        )
