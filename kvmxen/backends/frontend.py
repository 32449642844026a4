"""What a frontend says in its xenstore nodes, checked, and what it names there: rings, ports."""

from __future__ import annotations

import errno
import re
from threading import Thread

from kvmxen.backends.peer import Peer
from kvmxen.errors import GuestFault, HypercallError
from kvmxen.events import BackendPort
from kvmxen.grants import GrantError
from kvmxen.memory import Window
from kvmxen.ring.doorbell import Doorbell
from kvmxen.xenstore.errors import XenstoreError

_NUMBER = re.compile(rb"[0-9]{1,20}").fullmatch


class FrontendError(Exception):
    """What a frontend got wrong: `errno` and str() go to the device's error node."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.errno = code


def start_thread(thread: Thread) -> None:
    """Start a thread that serves a frontend; raises FrontendError if the host has no more."""
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
        """The value of the node `key`, None where there is none; FrontendError unless ASCII."""
        try:
            return self._peer.store.read(f"{self.path}/{key}").decode("ascii")
        except XenstoreError:
            return None
        except UnicodeDecodeError:
            raise FrontendError(errno.EINVAL, f"{key} is not ASCII") from None

    def number(self, key: str, most: int, default: int | None = None) -> int:
        """The value of `key`, from 0 to `most`; FrontendError for all else, and for no node
        without a `default`."""
        text = self.text(key)
        if text is None:
            if default is None:
                raise FrontendError(errno.ENOENT, f"{key} is missing")
            return default
        if not _NUMBER(text.encode()) or int(text) > most:
            raise FrontendError(errno.EINVAL, f"{key} is not a number from 0 to {most}")
        return int(text)

    def flag(self, key: str) -> bool:
        """Whether `key` is there and not 0."""
        return self.number(key, 1, 0) != 0


class RingPages:
    """The frames of a ring, by the grants `refs`, mapped until `close`; `window` shows them.

    Raises FrontendError for what is not granted.
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


class Channel:
    """The event channel to a frontend's `port`; what the guest sends rings `doorbell`, one of the
    channel's own where none is given.

    Raises FrontendError for a port that does not wait for dom0.
    """

    def __init__(self, peer: Peer, port: int, doorbell: Doorbell | None = None) -> None:
        self.doorbell = doorbell or Doorbell()
        self._owned = doorbell is None
        try:
            # A callable of this channel's only.
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
        """Send to the guest."""
        self._port.notify()

    def close(self) -> None:
        """Let go of the port."""
        self._port.close()
        self._release()

    def _release(self) -> None:
        if self._owned:
            self.doorbell.close()
