"""Reads a frontend's xenstore nodes, checks them, and opens the rings and ports that they name."""

from __future__ import annotations

import errno
import re
from threading import Thread

from kvmxen.backends.peer import Peer
from kvmxen.errors import GuestFault, HypercallError
from kvmxen.kvm.memory import Window
from kvmxen.ring.doorbell import Doorbell
from kvmxen.xen.events import BackendPort
from kvmxen.xen.grants import GrantError
from kvmxen.xenstore.errors import XenstoreError

_NUMBER = re.compile(rb"[0-9]{1,20}").fullmatch


class FrontendError(Exception):
    """A mistake of a frontend; `errno` and str() go to the device's error node."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.errno = code


def start_thread(thread: Thread) -> None:
    """Start a thread that serves a frontend; raises FrontendError if the host has no more
    threads."""
    try:
        thread.start()
    except RuntimeError as error:
        raise FrontendError(errno.EAGAIN, str(error)) from None


class FrontendNodes:
    """The nodes below `path`, which the guest may change while they are read."""

    def __init__(self, peer: Peer, path: str) -> None:
        self.path = path
        self._peer = peer

    def text(self, key: str) -> str | None:
        """The value of the node `key`, or None if there is none; FrontendError unless it is
        ASCII."""
        try:
            return self._peer.store.read(f"{self.path}/{key}").decode("ascii")
        except XenstoreError:
            return None
        except UnicodeDecodeError:
            raise FrontendError(errno.EINVAL, f"{key} is not ASCII") from None

    def number(self, key: str, most: int, default: int | None = None) -> int:
        """The value of `key`, from 0 to `most`. Raises FrontendError if it is anything else, or
        missing without a `default`."""
        text = self.text(key)
        if text is None:
            if default is None:
                raise FrontendError(errno.ENOENT, f"{key} is missing")
            return default
        if not _NUMBER(text.encode()) or int(text) > most:
            raise FrontendError(errno.EINVAL, f"{key} is not a number from 0 to {most}")
        return int(text)

    def flag(self, key: str) -> bool:
        """Whether the node `key` exists and is not 0."""
        return self.number(key, 1, 0) != 0


class RingPages:
    """A ring's frames, granted by `refs` and mapped until `close`; `window` gives access to them.

    Raises FrontendError if one is not granted.
    """

    def __init__(self, peer: Peer, refs: list[int]) -> None:
        self._peer = peer
        self._refs: list[int] = []
        try:
            gpas = [self._map(ref) for ref in refs]
            self.window = Window(peer.memory, gpas)
        except (GrantError, GuestFault) as error:
            self.close()
            raise FrontendError(errno.EINVAL, f"mapping the ring: {error}") from None
        except BaseException:
            self.close()
            raise

    def _map(self, ref: int) -> int:
        gpa = self._peer.grants.map_frame(ref, True)
        self._refs.append(ref)
        return gpa

    def close(self) -> None:
        """Unmap the grants."""
        while self._refs:
            self._peer.grants.unmap_frame(self._refs.pop(), True)


class EventChannel:
    """The event channel to a frontend's `port`. The guest's events ring `doorbell`; by default the
    channel has its own.

    Raises FrontendError if the port does not wait for dom0.
    """

    def __init__(self, peer: Peer, port: int, doorbell: Doorbell | None = None) -> None:
        self.doorbell = doorbell or Doorbell()
        self._owned = doorbell is None
        try:
            # A new callable for each channel.
            self._port: BackendPort = peer.events.connect_backend(
                port, lambda: self.doorbell.ring(), self.doorbell.fd
            )
        except HypercallError:
            self._release()
            raise FrontendError(
                errno.EINVAL, f"event-channel {port} is not waiting for the backend"
            ) from None
        except BaseException:
            self._release()
            raise

    def notify(self) -> None:
        """Send the guest an event."""
        self._port.notify()

    def close(self) -> None:
        """Close the port."""
        self._port.close()
        self._release()

    def _release(self) -> None:
        if self._owned:
            self.doorbell.close()
