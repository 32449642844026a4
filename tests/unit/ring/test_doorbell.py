"""A backend's doorbell counts its rings whether somebody reads them or not."""

from __future__ import annotations

import os

from kvmxen.ring.doorbell import Doorbell


def test_what_was_not_read_is_counted() -> None:
    doorbell = Doorbell()
    assert doorbell.unread == 0
    for _ in range(27):
        doorbell.ring()
    assert doorbell.unread == 27
    assert os.eventfd_read(doorbell.fd) == 27
    assert doorbell.unread == 0
    doorbell.ring()
    doorbell.close()
    doorbell.ring()
    doorbell.close()
    assert doorbell.unread == 1
