"""Devices and the states of their two ends: the toolstack's nodes, the backend's state machine.

Everything that a device's state depends on happens in one thread, the bus's; the devices' own
threads only move data. Source: xen/include/public/io/xenbus.h, the state diagrams of io/blkif.h,
and Linux's drivers (drivers/xen/xenbus, xen-blkback/xenbus.c, xen-netback/xenbus.c).
"""

from __future__ import annotations

import errno
import os
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TypeVar

from kvmxen.backends.frontend import FrontendError, FrontendNodes
from kvmxen.backends.peer import Peer
from kvmxen.errors import KvmxenError
from kvmxen.xen.abi.xenbus import XenbusState as State
from kvmxen.xenstore.errors import XenstoreError
from kvmxen.xenstore.paths import home
from kvmxen.xenstore.permissions import DOM0, READ, Permission
from kvmxen.xenstore.watches import Watch

# Seconds between two checks for changes on the host.
_LOOK_EVERY = 1.0

Nodes = Mapping[str, object]
_T = TypeVar("_T")

_GOES_AWAY = {
    State.UNKNOWN: State.CLOSED,
    State.CLOSED: State.CLOSED,
}
# From our state and the frontend's to our next. A pair that is missing changes nothing. Linux's
# blkfront is ready in Initialised, its netfront in Connected.
TABLE: dict[State, dict[State, State]] = {
    State.INIT_WAIT: _GOES_AWAY
    | {
        State.INITIALISED: State.CONNECTED,
        State.CONNECTED: State.CONNECTED,
        State.CLOSING: State.CLOSING,
    },
    # A frontend may start without ending the previous one: after kexec, or a kernel crash.
    State.CONNECTED: _GOES_AWAY
    | {State.INITIALISING: State.INIT_WAIT, State.CLOSING: State.CLOSING},
    State.CLOSING: _GOES_AWAY | {State.INITIALISING: State.INIT_WAIT},
    State.CLOSED: {State.INITIALISING: State.INIT_WAIT},
}


class Device(ABC):
    """The backend of one device. The bus calls it from its own thread, but for `figures`."""

    # The directory of its kind under backend/ and device/, and its number there.
    kind: str
    index: int
    # Whether the bus calls `refresh` at times to find changes on the host.
    changes = False

    @abstractmethod
    def describe(self) -> tuple[Nodes, Nodes]:
        """The nodes that the toolstack writes for the backend and for the frontend."""

    @abstractmethod
    def offer(self) -> Nodes:
        """The backend's nodes that a frontend finds when the backend is in InitWait."""

    @abstractmethod
    def connect(self, frontend: FrontendNodes, broken: Callable[[FrontendError], None]) -> Nodes:
        """Map the rings and start to serve them; return the nodes to write with Connected.

        `broken(error)` may be called from any thread, once the frontend cannot be served any
        longer. Raises FrontendError, or OSError or MemoryError if the host lacks a resource; on
        failure nothing is left mapped or running.
        """

    def refresh(self) -> Nodes:
        """The backend's nodes that must change after a change on the host; none by default.
        Raises KvmxenError if the guest cannot follow the change."""
        return {}

    def settle(self) -> None:  # noqa: B027
        """Serve a device that is being removed until the frontend has handed over its last
        requests; called before `disconnect`. By default there are none."""

    @abstractmethod
    def disconnect(self) -> None:
        """Stop serving and return everything to the guest; called only after `connect`."""

    @abstractmethod
    def close(self) -> None:
        """Release the host's resources."""

    @abstractmethod
    def figures(self) -> dict[str, int]:
        """Counts since the device was attached, for --stats; callable from any thread."""


class NoSuchDevice(KvmxenError):
    """The guest has no device of that kind and number."""


class _Slot:
    """A device on the bus. Only the bus's thread uses it after attaching, except `called`,
    which says whether a check of it is queued, and `errors`, which holds the last failure."""

    def __init__(self, device: Device, backend: str, frontend: str) -> None:
        self.device = device
        self.backend = backend
        self.frontend = frontend
        self.state = State.INITIALISING
        self.connected = False
        self.online = True
        self.gone = threading.Event()
        self.watch: Watch | None = None
        self.called = False
        self.errors: deque[FrontendError] = deque(maxlen=1)


class Xenbus:
    """The devices of one domain, from attaching to removal or the end of the bus."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._store = peer.store
        self._slots: dict[tuple[str, int], _Slot] = {}
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="xenbus", daemon=True)
        self._thread.start()

    def __enter__(self) -> Xenbus:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving every device, whatever state its frontend is in; the nodes stay."""
        self._work.put(None)
        self._thread.join()

    # From any thread.

    def attach(self, device: Device) -> None:
        """Offer `device` to the guest; the bus owns it from now on.

        Raises KvmxenError if the guest already has one of its kind and number.
        """
        self._do(lambda: self._attach(device))

    def detach(self, kind: str, index: int, timeout: float) -> bool:
        """Ask the guest to release a device; return whether it did within `timeout` seconds.

        A guest that still uses it may keep it and release it later. Raises NoSuchDevice.
        """
        gone = self._do(lambda: self._detach(kind, index))
        return gone.wait(timeout)

    def remove(self, kind: str, index: int) -> None:
        """Remove a device, whether or not the guest has released it; raises NoSuchDevice."""
        self._do(lambda: self._remove(self._slot(kind, index)))

    def refresh(self, kind: str, index: int) -> None:
        """Check for changes on the host now, and tell the guest; raises NoSuchDevice, and
        KvmxenError as Device.refresh does."""
        self._do(lambda: self._refresh(self._slot(kind, index)))

    def numbers(self, kind: str) -> set[int]:
        """The numbers of the devices of that kind."""
        return {index for slot_kind, index in list(self._slots) if slot_kind == kind}

    def figures(self) -> dict[str, dict[str, int]]:
        """Each device's figures, by "kind/index"."""
        slots = list(self._slots.items())
        return {f"{kind}/{index}": slot.device.figures() for (kind, index), slot in slots}

    def _do(self, what: Callable[[], _T]) -> _T:
        """Run `what` in the bus's thread and wait; return its result, or raise its KvmxenError."""
        result: SimpleQueue[_T | KvmxenError] = SimpleQueue()

        def work() -> None:
            try:
                result.put(what())
            except KvmxenError as error:
                result.put(error)

        self._work.put(work)
        while True:
            try:
                got = result.get(timeout=1)
                break
            except Empty:
                if not self._thread.is_alive():
                    raise KvmxenError("the domain is ending") from None
        if isinstance(got, KvmxenError):
            raise got
        return got

    def _call(self, slot: _Slot) -> None:
        """Queue one check of the device in the bus's thread, however often a guest asks for it."""
        if not slot.called:
            slot.called = True
            self._work.put(lambda: self._look(slot))

    def _break(self, slot: _Slot, error: FrontendError) -> None:
        slot.errors.append(error)
        self._call(slot)

    # In the bus's thread.

    def _run(self) -> None:
        try:
            while work := self._next():
                work()
        except BaseException as error:
            self._peer.fail(error)
        finally:
            for slot in list(self._slots.values()):
                self._disconnect(slot)
                slot.device.close()

    def _next(self) -> Callable[[], None] | None:
        """Wait for the next work; while waiting, check the devices that can change."""
        while True:
            changing = [slot for slot in self._slots.values() if slot.device.changes]
            try:
                return self._work.get(timeout=_LOOK_EVERY if changing else None)
            except Empty:
                for slot in changing:
                    with suppress(KvmxenError):
                        self._refresh(slot)

    def _refresh(self, slot: _Slot) -> None:
        nodes = dict(slot.device.refresh())
        if not nodes:
            return
        if slot.connected and slot.online:
            # Write the state again, as Linux's blkback does: a connected frontend then reads the
            # nodes.
            nodes["state"] = int(slot.state)
        with self._store.transaction() as store:
            _write(store.write, slot.backend, nodes)

    def _attach(self, device: Device) -> None:
        key = device.kind, device.index
        if key in self._slots:
            raise KvmxenError(f"the guest already has a {device.kind} {device.index}")
        domid = self._peer.domid
        slot = _Slot(
            device,
            f"{home(DOM0)}/backend/{device.kind}/{domid}/{device.index}",
            f"{home(domid)}/device/{device.kind}/{device.index}",
        )
        self._slots[key] = slot
        ours, theirs = device.describe()
        with self._store.transaction() as nodes:
            for path, owner, reader in (
                (slot.backend, DOM0, domid),
                (slot.frontend, domid, DOM0),
            ):
                if nodes.exists(path):
                    nodes.rm(path)
                nodes.mkdir(path)
                nodes.set_permissions(path, Permission(owner), Permission(reader, READ))
            _write(
                nodes.write,
                slot.backend,
                {
                    "frontend": slot.frontend,
                    "frontend-id": domid,
                    "online": 1,
                    "hotplug-status": "connected",
                    **ours,
                },
            )
            _write(
                nodes.write,
                slot.frontend,
                {"backend": slot.backend, "backend-id": DOM0, **theirs},
            )
            # The state comes last: a frontend's driver waits for it.
            _write(nodes.write, slot.backend, {"state": int(State.INITIALISING)})
            _write(nodes.write, slot.frontend, {"state": int(State.INITIALISING)})
        self._enter(slot, State.INIT_WAIT)
        # The callback runs under the store's lock, in the thread that changed the node.
        slot.watch = self._store.watch(f"{slot.frontend}/state", lambda _path: self._call(slot))

    def _look(self, slot: _Slot) -> None:
        """React to a change of the frontend's state, or to a failure of the device."""
        # A change from now on queues another check.
        slot.called = False
        if slot.gone.is_set():
            return
        while slot.errors:
            self._broken(slot, slot.errors.pop())
        try:
            number = FrontendNodes(self._peer, slot.frontend).number("state", 8, 0)
        except FrontendError as error:
            self._broken(slot, error)
            return
        state = TABLE[slot.state].get(State(number))
        if state is not None:
            self._enter(slot, state)

    def _enter(self, slot: _Slot, state: State) -> None:
        """Do what `state` requires before announcing it."""
        nodes: Nodes = {}
        if state is not State.CONNECTED:
            self._disconnect(slot)
        if state is State.INIT_WAIT:
            nodes = slot.device.offer()
        elif state is State.CONNECTED:
            try:
                nodes = slot.device.connect(
                    FrontendNodes(self._peer, slot.frontend),
                    lambda error: self._break(slot, error),
                )
            except FrontendError as error:
                self._broken(slot, error)
                return
            except (OSError, MemoryError) as error:
                # The host lacks a resource.
                code = getattr(error, "errno", None) or errno.ENOMEM
                self._broken(slot, FrontendError(code, f"on the host: {os.strerror(code)}"))
                return
            slot.connected = True
        self._say(slot, state, nodes)
        if state is State.CLOSED and not slot.online:
            self._remove(slot)

    def _say(self, slot: _Slot, state: State, nodes: Nodes) -> None:
        slot.state = state
        with self._store.transaction() as store:
            _write(store.write, slot.backend, {**nodes, "state": int(state)})

    def _disconnect(self, slot: _Slot) -> None:
        if slot.connected:
            slot.connected = False
            if not slot.online:
                slot.device.settle()
            slot.device.disconnect()
            # A past failure does not concern the next connection.
            slot.errors.clear()

    def _broken(self, slot: _Slot, error: FrontendError) -> None:
        """Report that the frontend cannot be served, in the node that Linux's drivers use
        (xenbus_dev_fatal())."""
        if slot.gone.is_set():
            return
        text = f"{-error.errno} {error}"
        self._store.write(f"{_error_path(slot)}/error", text.encode())
        if slot.state is not State.CLOSED:
            self._enter(slot, State.CLOSING)

    def _slot(self, kind: str, index: int) -> _Slot:
        slot = self._slots.get((kind, index))
        if slot is None:
            raise NoSuchDevice(f"no {kind} {index}")
        return slot

    def _detach(self, kind: str, index: int) -> threading.Event:
        slot = self._slot(kind, index)
        slot.online = False
        # As libxl does: the backend serves until the frontend has released the device.
        with self._store.transaction() as nodes:
            _write(nodes.write, slot.backend, {"online": 0, "state": int(State.CLOSING)})
        if slot.state is State.CLOSED:
            self._remove(slot)
        return slot.gone

    def _remove(self, slot: _Slot) -> None:
        self._disconnect(slot)
        slot.device.close()
        if slot.watch is not None:
            self._store.unwatch(slot.watch)
        for path in (slot.backend, slot.frontend, _error_path(slot)):
            try:
                self._store.rm(path)
            except XenstoreError as error:
                if error.errno != errno.ENOENT:
                    raise
        # Last, so that whoever waits for the removal finds nothing left.
        del self._slots[slot.device.kind, slot.device.index]
        slot.gone.set()


def _error_path(slot: _Slot) -> str:
    above, _, below = slot.backend.partition("/backend/")
    return f"{above}/error/backend/{below}"


def _write(write: Callable[[str, bytes], None], base: str, nodes: Nodes) -> None:
    for key, value in nodes.items():
        write(f"{base}/{key}", os.fsencode(str(value)))
