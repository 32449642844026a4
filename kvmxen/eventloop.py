"""Event loops: a guest whose every upcall ends in the next one, with no instruction between them.

Xen promises such a guest no progress, and so do we. PREEMPT_RT kernels of Linux 6.1, 6.12 and later
do it: xen_evtchn_do_upcall() leaves an RCU read section, which sends the next event.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable

from kvmxen.streams import say

# For how many ns an upcall is withheld, at first and at most.
FIRST_NS = 50_000
MOST_NS = 10_000_000


class EventLoops:
    """Those of one domain. If `breaks`, the guest goes on for a while without its upcall."""

    def __init__(self, breaks: bool) -> None:
        self._breaks = breaks
        self._lock = threading.Lock()
        self._told = False
        self._last: dict[int, tuple[Hashable, int]] = {}

    def met(self, vcpu: int, place: Hashable) -> int:
        """The vCPU is in such a loop, about to return to `place`: for how many ns to go on there.

        0 is to deliver the upcall at once, as Xen does. Longer each time at one place, so that a
        slow host lets the guest do something before the time is over.
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
